"""Write samples as Prometheus text. Loaded only where a scraper can come: with a TCP API, or on a balancer.

The samples are collected anew at each scrape, so nothing has to be kept in step with the agent; process and platform
numbers are the library's own.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rumor.web.views import Sample

Family = CounterMetricFamily | GaugeMetricFamily


def make_renderer() -> Callable[[Sequence[Sample]], tuple[str, bytes]]:
    """Return a function from samples to content type and text, with a registry of its own."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    collector = _Collector()
    registry.register(collector)

    def render(samples: Sequence[Sample]) -> tuple[str, bytes]:
        collector.samples = samples
        return CONTENT_TYPE_LATEST, generate_latest(registry)

    return render


class _Collector(Collector):
    def __init__(self) -> None:
        self.samples: Sequence[Sample] = ()

    def collect(self) -> Iterable[Family]:
        families: dict[str, Family] = {}
        for sample in self.samples:
            name = f"rumor_{sample.name}"
            if name not in families:
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                families[name] = kind(name, sample.help, labels=[key for key, _ in sample.labels])
            families[name].add_metric([value for _, value in sample.labels], sample.value)
        return families.values()
