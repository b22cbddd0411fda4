
from histories import *
@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with new_world(tmp_path_factory.mktemp("trust")) as made:
        yield made

def test_a(world):
    world.accepts(world.tip, world.item)
    world.git("fsck","--strict","--no-dangling")
    f=world.forge
    world.refuses(f.approved(world.tip, ulid(2), by="mallory"), "signature", world.fingerprint("mallory"))
    world.refuses(f.approved(world.tip, ulid(2), by=None), "signature")
def test_dup(world):
    f=world.forge
    t=f.draft(world.tip, ulid(2))
    good=f.approve(world.tip,t,ulid(2))
    rows=[(m,n,o) for (m,n,o) in parse(f.data[good_tree(f,good)])]
