"""Client's methods on snapshots and backups. normd.Client's say what they do."""

from __future__ import annotations

import asyncio
import os
from typing import Any, BinaryIO, Optional

import grpc.aio  # type: ignore[import]

from normd import _convert, _requests
from normd._connection import stream_timeout
from normd._snapshots import PIECE_BYTES, NewFile, Path, check_whole
from normd.aio._connection import Caller, in_thread
from normd.types import Snapshot
from normd.v1 import snapshot_service_pb2 as pb


class SnapshotCalls(Caller):
    """Keeps what layers are under a name, and copies a whole server."""

    # A SnapshotServiceStub.
    _snapshots: Any

    async def create_snapshot(self, name: str, *, layer: str = "", prefix: str = "", request_id: Optional[str] = None,
                              timeout: Optional[float] = None) -> Snapshot:
        """As normd.Client.create_snapshot."""
        request = _requests.create_snapshot(name, layer, prefix, request_id)
        return _convert.from_snapshot((await self._call(self._snapshots.CreateSnapshot, request, timeout)).snapshot)

    async def list_snapshots(self, prefix: str = "", *, timeout: Optional[float] = None) -> list[Snapshot]:
        """As normd.Client.list_snapshots."""
        response = await self._call(self._snapshots.ListSnapshots, _requests.list_snapshots(prefix), timeout)
        return [_convert.from_snapshot(snapshot) for snapshot in response.snapshots]

    async def restore_snapshot(self, name: str, *, layer: str = "", prefix: str = "", new_name: Optional[str] = None,
                               request_id: Optional[str] = None, timeout: Optional[float] = None) -> int:
        """As normd.Client.restore_snapshot."""
        request = _requests.restore_snapshot(name, layer, prefix, new_name, request_id)
        return int((await self._call(self._snapshots.RestoreSnapshot, request, timeout)).num_layers)

    async def delete_snapshot(self, name: str, *, request_id: Optional[str] = None,
                              timeout: Optional[float] = None) -> None:
        """As normd.Client.delete_snapshot."""
        await self._call(self._snapshots.DeleteSnapshot, _requests.delete_snapshot(name, request_id), timeout)

    async def backup(self, path: Path, *, overwrite: bool = False, timeout: Optional[float] = None) -> int:
        """As normd.Client.backup; threads write the file. A task that is cancelled leaves none.

        Only one that is cancelled when all has come, and the file is being put in its place, may find it there: whole.
        """
        seconds = stream_timeout(timeout)
        file = NewFile(os.fspath(path), overwrite)
        try:
            await in_thread(file.open)
            nbytes = await self._receive_backup(file, seconds)
            await in_thread(file.keep)
        finally:
            await in_thread(file.discard)
        return nbytes

    async def restore_backup(self, path: Path, *, layer: str = "", prefix: str = "", new_name: Optional[str] = None,
                             timeout: Optional[float] = None) -> int:
        """As normd.Client.restore_backup; threads read the file.

        A task that is cancelled cancels the call: nothing is restored, or, when the file has been sent, all of it.
        """
        seconds = stream_timeout(timeout)
        first = pb.RestoreBackupRequest(selection=_requests.selection(layer, prefix, new_name))
        file: BinaryIO = await in_thread(open, path, "rb")
        try:
            return await self._send_backup(file, first, seconds)
        finally:
            await in_thread(file.close)

    async def _receive_backup(self, file: NewFile, timeout: Optional[float]) -> int:
        want, got = 0, 0
        call = self._connection.start(self._snapshots.Backup, pb.BackupRequest(), timeout=timeout)
        try:
            while True:
                answer = await self._connection.of_stream(call, call.read())
                if answer is grpc.aio.EOF:
                    break
                want = want or answer.total_bytes
                got += await in_thread(file.write, answer.data)
        finally:
            call.cancel()
        check_whole(got, want)
        return got

    async def _send_backup(self, file: BinaryIO, first: Any, timeout: Optional[float]) -> int:
        call = self._connection.start(self._snapshots.RestoreBackup, timeout=timeout)
        try:
            try:
                await self._connection.of_stream(call, call.write(first))
                while True:
                    piece = await in_thread(file.read, PIECE_BYTES)
                    if not piece:
                        break
                    await self._connection.of_stream(call, call.write(pb.RestoreBackupRequest(data=piece)))
                await self._connection.of_stream(call, call.done_writing())
            except asyncio.InvalidStateError:
                # The server has ended the call; the answer says why.
                pass
            return int((await self._connection.of_stream(call, call)).num_layers)
        finally:
            call.cancel()
