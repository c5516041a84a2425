"""Client's methods on snapshots and backups."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any, BinaryIO, Iterator, Optional, Union

import grpc  # type: ignore[import]

from normd import _convert, _requests
from normd._connection import Caller, error_of, stream_timeout
from normd.errors import CancelledError, Code, Error
from normd.types import Snapshot
from normd.v1 import snapshot_service_pb2 as pb

Path = Union[str, "os.PathLike[str]"]

# Of a backup, in a message.
PIECE_BYTES = 1 << 20


class SnapshotCalls(Caller):
    """Keeps what layers are under a name, and copies a whole server."""

    # A SnapshotServiceStub.
    _snapshots: Any

    def create_snapshot(self, name: str, *, layer: str = "", prefix: str = "", request_id: Optional[str] = None,
                        timeout: Optional[float] = None) -> Snapshot:
        """Keeps layers as they are now, all at one moment between two changes, until the snapshot is deleted.

            >>> client.create_snapshot("before-finetuning", prefix="resnet50.")
            >>> client.restore_snapshot("before-finetuning")

        Args:
            name: as a layer's name.
            layer: of this one only.
            prefix: or of all whose name starts with this; neither: of all layers.

        Raises:
            AlreadyExistsError: the name is taken.
            NotFoundError: there is no such layer.
            ResourceExhaustedError: the server holds 1,000 snapshots.
        """
        request = _requests.create_snapshot(name, layer, prefix, request_id)
        return _convert.from_snapshot(self._call(self._snapshots.CreateSnapshot, request, timeout).snapshot)

    def list_snapshots(self, prefix: str = "", *, timeout: Optional[float] = None) -> list[Snapshot]:
        """The snapshots whose name starts with `prefix`, by name in byte order."""
        response = self._call(self._snapshots.ListSnapshots, _requests.list_snapshots(prefix), timeout)
        return [_convert.from_snapshot(snapshot) for snapshot in response.snapshots]

    def restore_snapshot(self, name: str, *, layer: str = "", prefix: str = "", new_name: Optional[str] = None,
                         request_id: Optional[str] = None, timeout: Optional[float] = None) -> int:
        """Brings layers back as they were, all in one step. Returns how many.

        A layer that differs gets a new version; one that was deleted is made again. Layers that the snapshot does not
        hold stay as they are. What the server has counted stays counted: a retry of a call from before changes nothing.

        Args:
            layer: this one only.
            prefix: or those whose name starts with this; neither: all that the snapshot holds.
            new_name: restore under other names: that of `layer`, or what takes the place of `prefix`.

        Raises:
            NotFoundError: no such snapshot, or it holds none of these layers.
            FailedPreconditionError: a layer is frozen. None was restored.
        """
        request = _requests.restore_snapshot(name, layer, prefix, new_name, request_id)
        return int(self._call(self._snapshots.RestoreSnapshot, request, timeout).num_layers)

    def delete_snapshot(self, name: str, *, request_id: Optional[str] = None, timeout: Optional[float] = None) -> None:
        """Deletes a snapshot; layers stay as they are."""
        request = _requests.delete_snapshot(name, request_id)
        self._call(self._snapshots.DeleteSnapshot, request, timeout)

    def backup(self, path: Path, *, overwrite: bool = False, timeout: Optional[float] = None) -> int:
        """Copies the server's state as it is at one moment into a file, while the server works. Returns its bytes.

        The file is one that a server starts with (--store sqlite:PATH); its owner alone may read it. It is there whole,
        synced to the disk, or not at all: until it is, it stands beside `path` under another name. Not sent again.

        Args:
            overwrite: replace a file at `path`.
            timeout: seconds for all of it; None: no limit.

        Raises:
            FailedPreconditionError: the server keeps its state in memory only.
            FileExistsError: there is something at `path`, and overwrite is False; or a server uses that file, or was
                killed when it did (its log, `path` with "-wal", is there).
            OSError: the file cannot be written.
        """
        file = NewFile(os.fspath(path), overwrite)
        try:
            file.open()
            nbytes = self._receive_backup(file, stream_timeout(timeout))
            file.keep()
        finally:
            file.discard()
        return nbytes

    def restore_backup(self, path: Path, *, layer: str = "", prefix: str = "", new_name: Optional[str] = None,
                       timeout: Optional[float] = None) -> int:
        """Brings layers back out of a file of backup(), as restore_snapshot does. Returns how many. Not sent again.

        Any server can do it, one without a state store included. Snapshots in the backup are left there.

        Args:
            layer, prefix, new_name: as in restore_snapshot.
            timeout: seconds for all of it; None: no limit.

        Raises:
            Error: with Code.DATA_LOSS: the file is damaged. Nothing was restored, as after any error.
            FailedPreconditionError: it is no backup, or of a newer normd; or a layer is frozen.
            NotFoundError: it holds none of these layers.
            OSError: the file cannot be read.
        """
        failures: list[OSError] = []
        with open(path, "rb") as file:
            requests = _restore_requests(file, _requests.selection(layer, prefix, new_name), failures)
            try:
                return int(self._snapshots.RestoreBackup(requests, timeout=stream_timeout(timeout)).num_layers)
            except ValueError as closed:
                raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})") from None
            except grpc.RpcError as failure:
                if failures:
                    raise failures[0] from None
                raise error_of(failure) from None

    def _receive_backup(self, file: NewFile, timeout: Optional[float]) -> int:
        want, got = 0, 0
        try:
            call = self._snapshots.Backup(pb.BackupRequest(), timeout=timeout)
        except ValueError as closed:
            raise CancelledError(Code.CANCELLED, f"the client is closed ({closed})") from None
        try:
            for answer in call:
                want = want or answer.total_bytes
                got += file.write(answer.data)
        except grpc.RpcError as failure:
            raise error_of(failure) from None
        finally:
            call.cancel()
        check_whole(got, want)
        return got


def _restore_requests(file: BinaryIO, selection: Any, failures: list[OSError]) -> Iterator[Any]:
    """Grpc runs this in a thread of its own; an exception there ends the call, and belongs to whoever made it."""
    yield pb.RestoreBackupRequest(selection=selection)
    try:
        while True:
            piece = file.read(PIECE_BYTES)
            if not piece:
                return
            yield pb.RestoreBackupRequest(data=piece)
    except OSError as failure:
        failures.append(failure)
        raise


def check_whole(got: int, want: int) -> None:
    """Raises Error if a backup of `want` bytes has ended after `got`."""
    if got != want or got == 0:
        raise Error(Code.DATA_LOSS, f"the server ended the backup after {got} bytes of {want}")


class NewFile:
    """A file that comes to be at `path` whole or not at all. Whoever opens it discards it in the end."""

    def __init__(self, path: str, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._folder, self._name = os.path.split(os.path.abspath(path))
        self._file: Optional[BinaryIO] = None
        self._scratch = ""

    def open(self) -> None:
        """Starts it, beside `path` under another name. Raises FileExistsError or another OSError."""
        _check_free(self._path, self._overwrite)
        handle, self._scratch = tempfile.mkstemp(prefix=f".{self._name}.", dir=self._folder)
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> int:
        """Appends; returns the number of bytes."""
        assert self._file is not None
        return self._file.write(data)

    def keep(self) -> None:
        """Syncs it to the disk and puts it at `path`. Raises FileExistsError or another OSError."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _move(self._scratch, self._path, self._overwrite)
        directory = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self) -> None:
        """Removes what was not kept."""
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._scratch and os.path.lexists(self._scratch):
                os.unlink(self._scratch)


def _check_free(path: str, overwrite: bool) -> None:
    """Raises FileExistsError if a file at `path` would destroy something."""
    log = path + "-wal"
    if os.path.lexists(log):
        # A server that starts with `path` takes this for a part of it.
        raise FileExistsError(errno.EEXIST, "the file beside the backup belongs to a server's state", log)
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "the backup would replace it (overwrite is False)", path)


def _move(scratch: str, path: str, overwrite: bool) -> None:
    if not overwrite:
        try:
            # Unlike a rename, replaces nothing that has come meanwhile.
            os.link(scratch, path)
            return
        except FileExistsError:
            raise
        except OSError:
            # A file system without links.
            pass
    _check_free(path, overwrite)
    os.replace(scratch, path)
