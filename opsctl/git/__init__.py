"""Git as the gate needs it: objects and refs, signing, and the git program. Nothing here knows what a draft is."""
