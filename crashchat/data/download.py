"""Fetch the released checkpoints, annotations and videos from the hub into the folders
where crashchat looks for them.

    crashchat download base                                 VideoLLaMA3-7B -> ckpt/videollama3_baseline
    crashchat download crashchat --repo OWNER/NAME          a CrashChat model -> ckpt/crashchat
    crashchat download annotations --repo OWNER/NAME        annotation files -> data
    crashchat download videos --repo OWNER/NAME             videos -> data/videos

For all but `base`, --repo is required: where CrashChat's files are released is not built in, take it from the
authors' page. The same command run again goes on where an interrupted one stopped. Every file is checked
against the hub's checksum before it gets its name; a file already there that differs is REMOVED, and the next
run fetches it. Code (*.py) is never fetched, archives are not unpacked. Exit code: 0 all there, 1 failed, 2
wrong arguments or not confirmed, 130 interrupted.
"""

import shutil
import sys
from pathlib import Path

from crashchat.command import make_parser
from crashchat.config import ROOT
from crashchat.data.hub_files import DownloadError, Kind, download, list_items

GIB = 2**30
# Files with these endings are fetched, nothing else: a list of what to leave out would miss the next kind of
# code.
CHECKPOINT = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja")
KINDS = {
    "base": Kind("ckpt/videollama3_baseline", "DAMO-NLP-SG/VideoLLaMA3-7B", "model", CHECKPOINT),
    "crashchat": Kind("ckpt/crashchat", None, "model", CHECKPOINT),
    "annotations": Kind(out="data", repo=None, repo_type="dataset", endings=(".json",), folder="annotations"),
    "videos": Kind(
        out="data/videos",
        repo=None,
        repo_type="dataset",
        endings=(".mp4", ".avi", ".mov", ".mkv", ".webm", ".zip", ".tar", ".gz"),
        folder="videos",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("download", __doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "--out", type=Path, help="folder to fill (default: see above, in the project's folder)"
    )
    parser.add_argument("--repo", metavar="OWNER/NAME", help="repository; required for all but base")
    parser.add_argument(
        "--repo-type", choices=("model", "dataset"), help="default: dataset for annotations and videos"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default main)")
    parser.add_argument(
        "--folder", help="of the repository, to fetch without its name (annotations or videos, if there)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before fetching more than 1 GiB")
    parser.add_argument("--dry-run", action="store_true", help="list what would be fetched, and stop")
    given = parser.parse_args(argv)
    kind = KINDS[given.kind]
    unknown = f"--repo OWNER/NAME is required for {given.kind}: where CrashChat is released is not built in"
    repo = given.repo or kind.repo or parser.error(unknown)
    out = (given.out or ROOT / kind.out).resolve()
    try:
        items = list_items(
            kind,
            repo,
            repo_type=given.repo_type or kind.repo_type,
            revision=given.revision,
            folder=given.folder,
            out=out,
        )
        missing = sum(item.missing() for item in items)
        print(
            f"{sum(item.size for item in items) / GIB:.2f} GiB in all, {missing / GIB:.2f} GiB to fetch "
            f"into {out}",
            flush=True,
        )
        if given.dry_run:
            print(
                *(
                    f"{item.missing():>15,} of {item.size:>15,} bytes  {item.name} -> {item.path}"
                    for item in items
                ),
                sep="\n",
            )
            return 0
        existing = next(folder for folder in [out, *out.parents] if folder.exists())
        if missing > (free := shutil.disk_usage(existing).free):
            raise DownloadError(
                f"{missing / GIB:.2f} GiB to fetch, {free / GIB:.2f} GiB free at {existing}; see --out"
            )
        confirmed = missing <= GIB or given.yes
        if not confirmed and sys.stdin.isatty():
            confirmed = input("Go on? [y/N] ").lower() in ("y", "yes")
        if not confirmed:
            parser.exit(2, "error: more than 1 GiB, not confirmed; nothing was fetched (--yes: do not ask)\n")
        download(items, out)
    except (DownloadError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    except (KeyboardInterrupt, EOFError):
        parser.exit(130, "interrupted; run this again to go on\n")
    print(f"{out}: {len(items)} files, complete and checked")
    return 0
