"""Client's methods on the life of layers."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, Optional, Sequence, Union

from normd import _convert, _requests
from normd._connection import Caller
from normd._watch import LayerWatch, Progress
from normd.presets import Preset
from normd.types import Layer, LayerChange, LayerState


class LayerCalls(Caller):
    """Makes, reads, changes, forks, watches and deletes layers."""

    # A LayerServiceStub.
    _layers: Any

    def create_layer(self, name: str, num_channels: int, preset: Union[str, Preset] = "reference", *,
                     initial_state: Optional[LayerState] = None, request_id: Optional[str] = None,
                     timeout: Optional[float] = None, **settings: Any) -> Layer:
        """Creates a layer.

        Args:
            name: dotted path, such as "resnet50.layer1.0.bn1": segments of letters, digits, _ and -.
            num_channels: C.
            preset: fills in the settings: reference, pytorch, keras, keras_fused, flax, haiku, standard_scaler,
                rl_observation, or what a function of normd.presets returns.
            initial_state: running statistics, gamma and beta to start with.
            settings: fields of LayerConfig that differ from the preset: eps, averaging, update_weight,
                running_var_estimator, normalize_training_with, affine, track_running_stats, clip, non_finite_policy,
                frozen.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        request = _requests.create_layer(name, num_channels, preset, initial_state, request_id, settings)
        return _convert.from_layer(self._call(self._layers.CreateLayer, request, timeout).layer)

    def get_layer(self, name: str, *, with_state: bool = True, version: int = 0,
                  timeout: Optional[float] = None) -> Layer:
        """Reads a layer, with what it has learned (with_state).

        Args:
            version: the newest (0), or one of the latest, which the server keeps (--kept-versions).

        Raises:
            FailedPreconditionError: `version` is not among them.
        """
        request = _requests.get_layer(name, with_state, version)
        return _convert.from_layer(self._call(self._layers.GetLayer, request, timeout).layer)

    def get_layer_if_newer(self, name: str, version: int, *, timeout: Optional[float] = None) -> Optional[Layer]:
        """Reads a layer with its state if its version is above `version`; None if it is not."""
        request = _requests.get_layer_if_newer(name, version)
        response = self._call(self._layers.GetLayer, request, timeout)
        return None if response.not_modified else _convert.from_layer(response.layer)

    def list_layers(self, prefix: str = "", *, with_state: bool = False, page_size: int = 100,
                    timeout: Optional[float] = None) -> Iterator[Layer]:
        """The layers whose name starts with `prefix`, by name in byte order. Asks for a page at a time, when needed."""
        token = ""
        while True:
            request = _requests.list_layers(prefix, with_state, page_size, token)
            response = self._call(self._layers.ListLayers, request, timeout)
            for layer in response.layers:
                yield _convert.from_layer(layer)
            token = response.next_page_token
            if not token:
                return

    def update_layer(self, name: str, *, etag: str = "", request_id: Optional[str] = None,
                     timeout: Optional[float] = None, **settings: Any) -> Layer:
        """Changes settings: eps, update_weight, normalize_training_with, clip (None: no bound), non_finite_policy,
        frozen.

        Raises:
            AbortedError: `etag` (Layer.etag) is given, and the settings have changed since.
            FailedPreconditionError: the setting is immutable, or the layer is frozen.
        """
        request = _requests.update_layer(name, etag, request_id, settings)
        return _convert.from_layer(self._call(self._layers.UpdateLayer, request, timeout).layer)

    def freeze_layer(self, name: str, *, request_id: Optional[str] = None, timeout: Optional[float] = None) -> Layer:
        """Keeps a layer as it is: from now on every change is a FailedPreconditionError, until unfreeze_layer."""
        return self.update_layer(name, frozen=True, request_id=request_id, timeout=timeout)

    def unfreeze_layer(self, name: str, *, request_id: Optional[str] = None, timeout: Optional[float] = None) -> Layer:
        """Lets a layer change again."""
        return self.update_layer(name, frozen=False, request_id=request_id, timeout=timeout)

    def fork_layer(self, name: str, new_name: str, *, version: int = 0, share_affine: bool = False,
                   reset_statistics: bool = False, request_id: Optional[str] = None,
                   timeout: Optional[float] = None) -> Layer:
        """Makes a layer out of another one: for a domain, a client or an experiment of its own. Returns the new layer.

            >>> client.fork_layer("net.bn1", "clinic_b.bn1", share_affine=True, reset_statistics=True)

        The new layer is at version 1 and not frozen, with the settings of the other one; what is learned there later
        does not concern it, but for gamma and beta that are shared.

        Args:
            version: start from this one of the latest versions, as in get_layer; 0: the newest.
            share_affine: the two share gamma, beta and the optimizer's state from now on (Layer.affine_group), with all
                forks of either that ask for it: a change through one is a change of all, and gives each a new version.
                False: the new layer gets copies.
            reset_statistics: start the new layer's statistics and counters anew.

        Raises:
            AlreadyExistsError: `new_name` is taken.
            FailedPreconditionError: `version` is not kept; or the layer is frozen and share_affine would change it.
            InvalidArgumentError: share_affine for a layer without gamma and beta, or together with `version`.
        """
        request = _requests.fork_layer(name, new_name, version, share_affine, reset_statistics, request_id)
        return _convert.from_layer(self._call(self._layers.ForkLayer, request, timeout).layer)

    def watch(self, names: Union[str, Sequence[str], None] = None, *, prefix: Optional[str] = None,
              with_state: bool = True, min_interval: float = 0.0,
              known: Iterable[Union[Layer, LayerChange]] = ()) -> LayerWatch:
        """Layers as they are, and from then on each when it changes or goes: an iterator over LayerChange.

            >>> with client.watch(prefix="resnet50.", min_interval=0.1) as watch:
            ...     for change in watch:
            ...         print(change.name, "is gone" if change.layer is None else change.version)

        Whoever reads slowly gets the newest version of each layer then, and not those between. The watch outlives the
        server: when that stops or cannot be reached, it goes on where it was as soon as there is one again, and logs
        (logger "normd") what happened. See LayerWatch.

        Args:
            names: one name, or several, at most 10,000; each must exist, or be among `known`.
            prefix: instead of names: all layers whose name starts with it, those to come included; "": all layers.
            with_state: send what the layers have learned; False: settings, version and hash only.
            min_interval: seconds that are at least between two versions of one layer, 0 to 3600. For layers in
                training: with 0 every version is sent that the connection takes.
            known: what you have from before; it is not sent again. One that has gone since is told.

        Raises, from the iterator:
            NotFoundError: a name does not exist.
            InvalidArgumentError: a name is no name of a layer, or there are too many.
            CancelledError: the client was closed.
        """
        request = _requests.watch_layers(names, prefix, with_state, min_interval)
        return LayerWatch(self._layers.WatchLayers, Progress(self._connection.retry, request, known))

    def delete_layer(self, name: str, *, etag: str = "", request_id: Optional[str] = None,
                     timeout: Optional[float] = None) -> None:
        """Deletes a layer and what it has learned."""
        request = _requests.delete_layer(name, etag, request_id)
        self._call(self._layers.DeleteLayer, request, timeout)

    def reset_statistics(self, name: str, *, expected_version: int = 0, request_id: Optional[str] = None,
                         timeout: Optional[float] = None) -> Layer:
        """Sets running statistics and counters back to their start; gamma and beta stay.

        Raises:
            AbortedError: `expected_version` is given, and the layer has changed since.
        """
        request = _requests.reset_statistics(name, expected_version, request_id)
        return _convert.from_layer(self._call(self._layers.ResetStatistics, request, timeout).layer)

    def set_state(self, name: str, state: LayerState, *, expected_version: int = 0, reset_optimizer: bool = False,
                  request_id: Optional[str] = None, timeout: Optional[float] = None) -> Layer:
        """Overwrites the parts of the state that are not empty, all in one step.

        running_mean and running_var go together, and bring sample_count and num_batches_tracked with them (0 if not
        given); gamma and beta go together.
        """
        request = _requests.set_state(name, state, expected_version, reset_optimizer, request_id)
        return _convert.from_layer(self._call(self._layers.SetState, request, timeout).layer)
