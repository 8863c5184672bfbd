"""Downloads over connections as they are."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.digests import Sha256
from akashllm.errors import BadName, DigestMismatch, DownloadFailed
from akashllm.server.models import filling
from akashllm.server.models import partial as partial_module
from akashllm.server.models.download import download
from akashllm.server.models.source import Patience
from akashllm.testing.files import Asked, Fault, FileServer, running_files
from tests.fetch.conftest import HASTY, SOON, content

MIB = 1 << 20
DATA = content(5 * MIB + 123)
DIGEST = Sha256.of(DATA)


def beside(into: Path) -> list[str]:
    """What lies in the target's folder."""
    return sorted(path.name for path in into.parent.iterdir())


async def test_a_file_comes_whole_verified_and_in_parts(server: FileServer, tmp_path: Path) -> None:
    """A download arrives byte for byte, by several ranges, and leaves nothing else behind."""
    url, into = server.put("/m.gguf", DATA), tmp_path / "models" / "m.gguf"
    seen: list[tuple[int, int | None]] = []

    found = await download(
        url, into, digest=DIGEST, size=len(DATA), progress=lambda *word: seen.append(word), segment=MIB
    )

    assert found == into
    assert into.read_bytes() == DATA
    assert stat.S_IMODE(into.stat().st_mode) == 0o644
    assert beside(into) == ["m.gguf"]
    assert len(server.seen) == 6
    assert server.asked() == len(DATA)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(DATA), len(DATA))


async def test_several_parts_run_at_once(server: FileServer, tmp_path: Path) -> None:
    """`parts` requests are open at the same time, and no more."""
    together = threading.Barrier(3, timeout=10)

    original = FileServer.answer_to

    def gate(self: FileServer, asked: Asked) -> Fault:
        fault = original(self, asked)
        if asked.span and asked.span[0]:
            together.wait()
        return fault

    url = server.put("/m.gguf", DATA[: 4 * MIB])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileServer, "answer_to", gate)
        await download(url, tmp_path / "m.gguf", parts=3, segment=MIB, patience=SOON)

    assert (tmp_path / "m.gguf").read_bytes() == DATA[: 4 * MIB]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1])
async def test_small_files_and_empty_ones(server: FileServer, tmp_path: Path, size: int) -> None:
    """Sizes around the first request come out right, nothing at all included."""
    data = content(size)
    await download(
        server.put("/f", data),
        tmp_path / "f",
        digest=Sha256.of(data),
        size=size,
        segment=MIB // 2,
        patience=SOON,
    )

    assert (tmp_path / "f").read_bytes() == data


async def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    """A target that exists needs no network."""
    (tmp_path / "m").write_bytes(DATA)

    await download("http://127.0.0.1:1/m", tmp_path / "m", digest=DIGEST, size=len(DATA))

    assert server.seen == []


FAULTS = {
    "cut": Fault(cut=MIB // 2),
    "cut before the first byte": Fault(cut=0),
    "busy": Fault(status=503),
    "asked too often": Fault(status=429, headers={"Retry-After": "0"}),
    "too little": Fault(missing=100),
    "too much": Fault(extra=100),
    "another range": Fault(shift=4096),
    "no such range": Fault(status=416),
    "a range of nothing": Fault(headers={"Content-Range": "bytes 5-2/9"}),
    "a range that is no range": Fault(headers={"Content-Range": "lines 1-2/3"}),
    "no ranges": Fault(ignore=True),
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_that_passes_is_survived(server: FileServer, tmp_path: Path, name: str, at: int) -> None:
    """After one bad answer, the first or a later one, the file is what it should be."""
    url = server.put("/m.gguf", DATA)
    server.faults = [None] * at + [FAULTS[name]]

    await download(url, tmp_path / "m.gguf", digest=DIGEST, size=len(DATA), segment=MIB, patience=SOON)

    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert beside(tmp_path / "m.gguf") == ["m.gguf"]


STAYING = {
    "no ranges": (lambda _: Fault(ignore=True), None),
    "another range": (lambda asked: Fault(shift=1) if asked.span else None, None),
    "too much of a range": (lambda asked: Fault(extra=9) if asked.span else None, None),
    "busy": (lambda _: Fault(status=500), "answers 500"),
    "cut": (lambda _: Fault(cut=10), "breaks the connection"),
    "a page": (lambda _: Fault(page=True), "a web page"),
    "compressed": (lambda _: Fault(headers={"Content-Encoding": "gzip"}), "compressed"),
    "forbidden": (lambda _: Fault(status=403), "does not let us read"),
    "missing": (lambda _: Fault(status=404), "has no m.gguf"),
    "long pause": (lambda _: Fault(status=429, headers={"Retry-After": "86400"}), "asked too often"),
    "always too much": (lambda _: Fault(extra=9), "sends more of m.gguf"),
    "always too little": (lambda _: Fault(missing=9), "sends less of m.gguf"),
    "circles": (lambda _: Fault(status=302, headers={"Location": "/m.gguf"}), "round in circles"),
    "to a file": (lambda _: Fault(status=302, headers={"Location": "file:///etc/passwd"}), "not safe"),
    "to another host": (lambda _: Fault(status=302, headers={"Location": "http://example.org/"}), "not safe"),
    "nowhere": (lambda _: Fault(status=302), "not safe"),
}


@pytest.mark.parametrize("name", STAYING)
async def test_a_fault_that_stays_is_worked_around_or_told(
    server: FileServer, tmp_path: Path, name: str
) -> None:
    """Servers without usable ranges are read in one go; anything else ends in a sentence and no file."""
    judge, sentence = STAYING[name]
    server.judge = judge
    url, into = server.put("/m.gguf", DATA), tmp_path / "m.gguf"

    if sentence is None:
        await download(url, into, digest=DIGEST, size=len(DATA), segment=MIB, patience=SOON)
        assert into.read_bytes() == DATA
        return
    with pytest.raises(DownloadFailed, match=sentence):
        await download(url, into, digest=DIGEST, size=len(DATA), segment=MIB, patience=SOON)

    assert not into.exists()
    if name in {"forbidden", "missing", "busy", "a page", "circles"}:
        assert beside(into) == []


async def test_a_stall_is_noticed(server: FileServer, tmp_path: Path) -> None:
    """A server that says nothing more is asked again for the rest, not for what came."""
    url = server.put("/m.gguf", DATA)
    server.faults = [None, Fault(stall=MIB // 2), Fault(stall=0)]

    await download(url, tmp_path / "m.gguf", digest=DIGEST, segment=2 * MIB, patience=HASTY)

    assert (tmp_path / "m.gguf").read_bytes() == DATA
    spans = [asked.span for asked in server.seen]
    assert any(span and span[0] % MIB == MIB // 2 for span in spans)


async def test_pauses_grow_and_the_servers_wish_counts(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pause is up to twice as long as the last one; Retry-After is kept to the second."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(filling, "_sleep", sleep)
    server.faults = [Fault(status=503), Fault(status=503), Fault(status=429, headers={"Retry-After": "7"})]

    await download(server.put("/f", b"x"), tmp_path / "f", patience=Patience(pause=1.0))

    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0
    assert pauses[2] == 7.0


async def test_cancelled_at_ninety_percent(server: FileServer, tmp_path: Path) -> None:
    """A cancelled download goes on where it stopped: only the missing tenth is asked for again."""
    data = content(10 * MIB)
    url, into = server.put("/m.gguf", data), tmp_path / "m.gguf"
    server.judge = lambda asked: Fault(stall=0) if asked.span and asked.span[0] >= 9 * MIB else None

    def done(there: int, _: int | None) -> None:
        if there == 9 * MIB:
            reached.set()

    reached = asyncio.Event()
    task = asyncio.create_task(
        download(url, into, digest=Sha256.of(data), progress=done, segment=MIB, patience=SOON)
    )
    await asyncio.wait_for(reached.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not into.exists()
    record = tmp_path / ".m.gguf.partial.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / ".m.gguf.partial").stat().st_mode) == 0o600
    assert json.loads(record.read_text())["done"] == [[0, 9 * MIB]]
    server.judge = None
    server.seen.clear()
    await download(url, into, digest=Sha256.of(data), segment=MIB, patience=SOON)
    assert server.asked() == MIB
    assert into.read_bytes() == data
    assert beside(into) == ["m.gguf"]


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 300_000), max_size=3),
    segment=st.sampled_from([50_000, 100_001, 1 << 20]),
    parts=st.integers(1, 4),
)
def test_cut_anywhere(cuts: list[int], segment: int, parts: int) -> None:
    """Wherever connections are cut, the file comes out as it is."""
    import tempfile

    data = content(300_000)
    with running_files() as server, tempfile.TemporaryDirectory() as folder:
        server.faults = [Fault(cut=cut) for cut in cuts]
        into = Path(folder) / "f"
        url = server.put("/f", data)
        asyncio.run(download(url, into, segment=segment, parts=parts, patience=SOON))

        assert into.read_bytes() == data


async def test_a_file_that_changes_between_parts_is_begun_anew(server: FileServer, tmp_path: Path) -> None:
    """Parts of two versions are never put together, even where no digest is known."""
    other = content(len(DATA), seed=2)
    url = server.put("/m.gguf", DATA)
    server.faults = [None, Fault(after=lambda: server.files.update({"/m.gguf": other}))]

    await download(url, tmp_path / "m.gguf", parts=1, segment=MIB, patience=SOON)

    assert (tmp_path / "m.gguf").read_bytes() == other


async def test_a_file_that_keeps_changing_is_given_up(server: FileServer, tmp_path: Path) -> None:
    """A source that is another one at every request is told so."""
    url = server.put("/m.gguf", DATA)
    turns = iter(range(100))

    def judge(_: Asked) -> None:
        server.tags["/m.gguf"] = f'"{next(turns)}"'

    server.judge = judge

    with pytest.raises(DownloadFailed, match="keeps changing"):
        await download(url, tmp_path / "m.gguf", parts=1, segment=MIB, patience=SOON)


async def test_a_changed_file_is_not_resumed(server: FileServer, tmp_path: Path) -> None:
    """What an earlier run left of another version is thrown away."""
    other = content(len(DATA), seed=2)
    url, into = server.put("/m.gguf", DATA), tmp_path / "m.gguf"
    server.judge = lambda asked: Fault(status=403) if asked.span and asked.span[0] >= 3 * MIB else None
    with pytest.raises(DownloadFailed):
        await download(url, into, parts=1, segment=MIB, patience=SOON)
    server.judge = None
    server.put("/m.gguf", other)

    await download(url, into, segment=MIB, patience=SOON)

    assert into.read_bytes() == other


async def test_a_wrong_digest_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    """One flipped bit, and there is neither the file nor a part of it."""
    url, into = server.put("/m.gguf", DATA), tmp_path / "m.gguf"
    server.judge = lambda asked: Fault(flip=2 * MIB)

    with pytest.raises(DigestMismatch, match="not the file that was promised"):
        await download(url, into, digest=DIGEST, segment=MIB, patience=SOON)

    assert beside(into) == []


async def test_rot_in_an_old_part_is_mended(server: FileServer, tmp_path: Path) -> None:
    """Where the fault is in what an earlier run left, the file is fetched once more instead of given up."""
    url, into = server.put("/m.gguf", DATA), tmp_path / "m.gguf"
    server.judge = lambda asked: Fault(status=403) if asked.span and asked.span[0] >= 3 * MIB else None
    with pytest.raises(DownloadFailed):
        await download(url, into, digest=DIGEST, parts=1, segment=MIB, patience=SOON)
    server.judge = None
    with (tmp_path / ".m.gguf.partial").open("r+b") as file:
        file.write(b"rot")

    await download(url, into, digest=DIGEST, segment=MIB, patience=SOON)

    assert into.read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
async def test_another_size_than_promised(server: FileServer, tmp_path: Path, size: int) -> None:
    """A file of another size is refused before more than its beginning is read."""
    url = server.put("/m.gguf", DATA)

    with pytest.raises(DigestMismatch, match="were promised"):
        await download(url, tmp_path / "m.gguf", size=size, segment=MIB, patience=SOON)

    assert len(server.seen) == 1
    assert not (tmp_path / "m.gguf").exists()


RECORDS = {
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "another kind": b"[1]",
    "beyond the file": json.dumps(
        {"version": 1, "source": str(DIGEST), "size": len(DATA), "validator": "", "done": [[0, len(DATA)]]}
    ).encode(),
    "backwards": json.dumps(
        {"version": 1, "source": str(DIGEST), "size": len(DATA), "validator": "", "done": [[5, 1]]}
    ).encode(),
    "of the future": b'{"version": 99}',
}


@pytest.mark.parametrize("name", RECORDS)
async def test_a_damaged_record_is_not_believed(server: FileServer, tmp_path: Path, name: str) -> None:
    """A record that makes no sense costs the parts, never the file."""
    (tmp_path / ".m.gguf.partial").write_bytes(b"half of something")
    (tmp_path / ".m.gguf.partial.json").write_bytes(RECORDS[name])

    await download(server.put("/m.gguf", DATA), tmp_path / "m.gguf", digest=DIGEST, segment=MIB, patience=SOON)

    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert beside(tmp_path / "m.gguf") == ["m.gguf"]


async def test_credentials_stay_with_their_host(server: FileServer, tmp_path: Path) -> None:
    """A redirect to another origin gets the file's bytes from there, and no token goes along."""
    with running_files() as elsewhere:
        target = elsewhere.put("/blob", DATA)
        server.judge = lambda asked: Fault(status=302, headers={"Location": target})
        url = server.put("/m.gguf", b"")

        await download(
            url,
            tmp_path / "m.gguf",
            digest=DIGEST,
            headers={"Authorization": "Bearer secret", "X-Kind": "weights"},
            segment=2 * MIB,
            patience=SOON,
        )

        assert {asked.headers.get("authorization") for asked in server.seen} == {"Bearer secret"}
        assert {asked.headers.get("authorization") for asked in elsewhere.seen} == {None}
        assert {asked.headers.get("x-kind") for asked in elsewhere.seen} == {"weights"}
        assert len(server.seen) == 1


async def test_an_address_that_has_run_out_is_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    """Signed addresses expire during a long download: the way there is asked for again."""
    with running_files() as elsewhere:
        target = elsewhere.put("/blob", DATA)
        server.judge = lambda asked: Fault(status=302, headers={"Location": target})
        elsewhere.faults = [None, None, Fault(status=403)]

        await download(
            server.put("/m", b""), tmp_path / "m", digest=DIGEST, parts=1, segment=MIB, patience=SOON
        )

        assert len(server.seen) == 2


async def test_a_full_disk_is_told_before_it_is_full(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that does not fit is refused at its first answer, with both figures."""
    monkeypatch.setattr(partial_module, "MARGIN", 1 << 60)

    with pytest.raises(DownloadFailed, match=r"needs 5\.0 MiB more and the disk has .* free"):
        await download(server.put("/m", DATA), tmp_path / "m", patience=SOON)

    assert len(server.seen) == 1


async def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at the last piece is a sentence; with room again, only that piece is fetched."""
    import errno

    write = partial_module._write

    def full(descriptor: int, data: bytes, offset: int) -> None:
        if offset >= 4 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor, data, offset)

    url = server.put("/m", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(partial_module, "_write", full)
        with pytest.raises(DownloadFailed, match="the disk is full"):
            await download(url, tmp_path / "m", digest=DIGEST, parts=1, segment=MIB, patience=SOON)
    assert not (tmp_path / "m").exists()
    server.seen.clear()

    await download(url, tmp_path / "m", digest=DIGEST, parts=1, segment=MIB, patience=SOON)

    assert server.asked() < 2 * MIB


async def test_a_folder_that_is_a_file(server: FileServer, tmp_path: Path) -> None:
    """A target that cannot be is one sentence."""
    (tmp_path / "models").write_text("a file")

    with pytest.raises(DownloadFailed, match="cannot be written"):
        await download(server.put("/m", DATA), tmp_path / "models" / "m", patience=SOON)


async def test_a_link_in_the_parts_place_is_not_followed(server: FileServer, tmp_path: Path) -> None:
    """Whoever puts a link where the partial file goes gets nothing written through it."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".m.partial").symlink_to(tmp_path / "victim")

    with pytest.raises(DownloadFailed, match="cannot be written"):
        await download(server.put("/m", DATA), tmp_path / "m", patience=SOON)

    assert (tmp_path / "victim").read_text() == "mine"


async def test_two_callers_share_one_download(server: FileServer, tmp_path: Path) -> None:
    """Both get the file and both see progress; the bytes come once, and one may leave."""
    url, into = server.put("/m", DATA), tmp_path / "m"
    server.faults = [None, None, Fault(stall=0)]
    seen: list[int] = []
    first = asyncio.create_task(download(url, into, digest=DIGEST, segment=MIB, patience=HASTY))
    second = asyncio.create_task(
        download(url, into, digest=DIGEST, progress=lambda done, _: seen.append(done), segment=MIB)
    )
    await asyncio.to_thread(server.stalled.wait, 10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    await second

    assert into.read_bytes() == DATA
    assert seen[-1] == len(DATA)
    assert len([asked for asked in server.seen if asked.span and asked.span[0] == 0]) == 1


async def test_a_new_caller_after_the_last_one_left(server: FileServer, tmp_path: Path) -> None:
    """A download that everyone left and someone joins again at once goes on instead of failing."""
    url, into = server.put("/m", DATA), tmp_path / "m"
    server.faults = [None, Fault(stall=0)]
    first = asyncio.create_task(download(url, into, digest=DIGEST, parts=1, segment=MIB, patience=SOON))
    await asyncio.to_thread(server.stalled.wait, 10)
    first.cancel()
    second = asyncio.create_task(download(url, into, digest=DIGEST, parts=1, segment=MIB, patience=SOON))
    with pytest.raises(asyncio.CancelledError):
        await first

    await second

    assert into.read_bytes() == DATA
    assert server.asked() <= len(DATA) + MIB


_CHILD = """
import asyncio, sys
from pathlib import Path
from akashllm.digests import Sha256
from akashllm.server.models.download import download
asyncio.run(download(sys.argv[1], Path(sys.argv[2]), digest=Sha256(sys.argv[3])))
"""


async def test_two_processes_share_one_download(server: FileServer, tmp_path: Path) -> None:
    """A second process waits for the first one's file and fetches nothing itself."""
    url, into = server.put("/m", DATA), tmp_path / "m"
    server.faults = [None, Fault(stall=0)]
    ours = asyncio.create_task(
        download(url, into, digest=DIGEST, parts=1, segment=MIB, patience=Patience(read=2.0, pause=0.0))
    )
    await asyncio.to_thread(server.stalled.wait, 10)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", _CHILD, url, str(into), DIGEST.hex)
    await ours
    assert await asyncio.wait_for(child.wait(), 30) == 0

    assert into.read_bytes() == DATA
    assert beside(into) == ["m"]
    assert server.asked() == len(DATA) + MIB


async def test_a_killed_process_leaves_a_part_that_goes_on(server: FileServer, tmp_path: Path) -> None:
    """SIGKILL in the middle: the next run takes up what had been recorded."""
    url, into = server.put("/m", DATA), tmp_path / "m"
    server.judge = lambda asked: Fault(stall=0) if asked.span and asked.span[0] >= 4 * MIB else None
    script = _CHILD.replace("digest=Sha256(sys.argv[3])", f"digest=Sha256(sys.argv[3]), parts=1, segment={MIB}")
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, str(into), DIGEST.hex)
    assert await asyncio.to_thread(server.stalled.wait, 30)
    child.kill()
    await child.wait()
    server.judge = None
    server.seen.clear()

    await download(url, into, digest=DIGEST, segment=MIB, patience=SOON)

    assert into.read_bytes() == DATA
    assert server.asked() <= len(DATA) - 4 * MIB + MIB


@pytest.mark.parametrize("url", ["", "m.gguf", "ftp://h/m", "file:///etc/passwd", "http://", "https://h:pass"])
async def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    """Only http and https addresses are asked."""
    with pytest.raises(BadName, match="malformed"):
        await download(url, tmp_path / "m")


async def test_nobody_there(tmp_path: Path) -> None:
    """A host that does not answer is named."""
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1 cannot be reached"):
        await download("http://127.0.0.1:1/m", tmp_path / "m", patience=SOON)
