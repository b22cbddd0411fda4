"""`opsctl review`: a desk for the keyboard. Reads drafts oldest first; nothing is decided by Enter alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from opsctl import diffing, text
from opsctl.cli import editor, keys, render
from opsctl.cli.app import command, report
from opsctl.cli.approve_command import tell
from opsctl.cli.list_command import Author, Label, Limit, Search
from opsctl.cli.session import Session, many
from opsctl.document import short
from opsctl.errors import OpsError

if TYPE_CHECKING:
    from opsctl.models import Draft

_KEYS = "a approve  r return  x reject  e edit  d diff  s skip  v view again  ? help  q quit"
_HELP = """\
a  approve the revision that is shown: asks for a y, then signs
r  return it: ask the author for changes, with a reason
x  reject it, with a reason if you give one
e  edit the whole file in your editor; the new revision is shown next
d  what changed since you last looked at it, else since the revision before
v  show it again
s  leave it for later
q  leave the desk; what you decided stays decided"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "review", example="opsctl review --label risk:low")
    def review(
        session: Session, label: Label = None, author: Author = None, search: Search = None, limit: Limit = None
    ) -> None:
        """Read pending drafts one by one and decide with single keys."""
        from opsctl.workspace.drafts import Filter

        session.require_person("review", "opsctl list, show, approve, return and reject do the same without a terminal")
        waiting = session.workspace.drafts.list(Filter("draft", label, author, search, limit))
        fault = session.workspace.fault
        if fault:
            session.say(f"the gate is closed: {fault.message}; `opsctl verify` says more")
        if not waiting:
            return session.say("nothing waits for review")
        for number, draft in enumerate(waiting, 1):
            if not _Sitting(session, draft.ulid, f"{number} of {len(waiting)}").run():
                break
        return session.say(f"{many(len(session.workspace.drafts.list()), 'draft')} pending")


class _Sitting:
    """One draft on the desk."""

    def __init__(self, session: Session, ulid: str, place: str) -> None:
        self._session = session
        self._drafts = session.workspace.drafts
        self._ulid = ulid
        self._place = place
        self._seen = session.workspace.looked
        self._before = self._seen.last(ulid)

    def run(self) -> bool:
        """Show, ask, act. False when the person leaves the desk."""
        draft = self._drafts.get(self._ulid)
        if draft.status != "draft":
            self._session.say(f"d_{self._ulid} is {draft.status} by now")
            return True
        self._show(draft)
        while True:
            self._session.raw_line(self._session.paint(_KEYS, "dim"))
            key = keys.press()
            if key in ("q", "Q", "\x04", ""):
                return False
            if key in ("s", "S", "n"):
                return True
            if key in _ACTIONS and self._act(_ACTIONS[key], draft):
                return True
            draft = self._drafts.get(self._ulid)

    def _act(self, action: Callable[[_Sitting, Draft], bool], draft: Draft) -> bool:
        try:
            return action(self, draft)
        except OpsError as error:
            report(error, as_json=False)
            return False

    def _show(self, draft: Draft) -> None:
        self._session.raw_line(self._session.paint(f"=== {self._place} ===", "bold"))
        steps = self._session.workspace.steps(self._ulid)
        whole = keys.page(render.draft_lines(self._session, draft, self._drafts.content(draft), steps))
        if self._before and self._before[0] != draft.digest:
            self._session.say("it changed since you last looked; d shows how")
        self._whole, self._shown = whole, draft.digest
        self._seen.remember(draft)

    def _is_shown(self, draft: Draft) -> bool:
        """True if this very revision was shown; another one is shown first, and nothing is decided on it yet."""
        if draft.digest == self._shown:
            return True
        self._session.say("it changed meanwhile; this is the new revision")
        self._before = None
        self._show(draft)
        return False

    def approve(self, draft: Draft) -> bool:
        """Sign the revision that was shown to its end."""
        if not self._is_shown(draft):
            return False
        if not self._whole:
            self._session.say("read it to the end first (v shows it again)")
            return False
        if not self._session.confirm(
            f"approve revision {short(draft.digest)}, {text.one_line(draft.document.title, 80)}?"
        ):
            return False
        tell(self._session, self._session.workspace.approvals.approve(self._ulid, expect=draft.digest))
        return True

    def give_back(self, _: Draft) -> bool:
        """Ask for changes."""
        reason = self._session.ask("what should change?")
        if not reason:
            return False
        self._drafts.give_back(self._ulid, reason)
        self._session.say("returned; it stays pending with your reason")
        return True

    def reject(self, draft: Draft) -> bool:
        """Close it."""
        if not self._is_shown(draft):
            return False
        reason = self._session.ask("why? (may be empty)")
        if not self._session.confirm("reject it?"):
            return False
        self._drafts.reject(self._ulid, reason or None, expect=draft.digest)
        self._session.say("rejected")
        return True

    def edit(self, draft: Draft) -> bool:
        """A new revision by the reviewer, shown at once."""
        data = editor.edit(self._drafts.content(draft), suffix=".md", chosen=self._session.workspace.editor)
        with editor.keeping(data, self._session.workspace.spare_folder, ".md"):
            after, changed = self._drafts.edit(self._ulid, data=data, expect=draft.digest)
        if changed:
            self._before = (draft.digest, draft.blob)
            self._show(after)
        else:
            self._session.say("nothing changed")
        return False

    def diff(self, draft: Draft) -> bool:
        """What changed since the last look, else since the revision before."""
        revisions = self._drafts.revisions(self._ulid)
        blob = self._before[1] if self._before and self._before[0] != draft.digest else None
        blob = blob or (revisions[-2].blob if len(revisions) > 1 else None)
        if blob is None:
            self._session.say("it has one revision, and you see it")
            return False
        old, new = (self._drafts.text(one) for one in (blob, draft.blob))
        keys.page(render.line_diff(self._session, diffing.lines(old, new)))
        return False

    def view(self, draft: Draft) -> bool:
        """Show it again."""
        self._show(draft)
        return False

    def help(self, _: Draft) -> bool:
        """What the keys do."""
        self._session.raw_line(_HELP)
        return False


_ACTIONS: dict[str, Callable[[_Sitting, Draft], bool]] = {
    "a": _Sitting.approve,
    "r": _Sitting.give_back,
    "x": _Sitting.reject,
    "e": _Sitting.edit,
    "d": _Sitting.diff,
    "v": _Sitting.view,
    "?": _Sitting.help,
    "h": _Sitting.help,
}
