"""What a cache server counts, for Prometheus. Only names and meanings."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """Of one server; its own registry, so that several can live in one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"capstan_cache_{name}", what, labels, registry=registry)

        self.received_bytes = counter("received_bytes", "Bytes written to the disk, by way in", "way")
        self.sent_bytes = counter("sent_bytes", "Bytes read from the disk, by way out", "way")
        self.files_received = counter("files_received", "Files whose bytes are on the disk, by way in", "way")
        self.files_sent = counter("files_sent", "Transfers of files out, by way", "way")
        self.failures = counter("failures", "Transfers that failed, by way and code", "way", "code")
        self.evicted_files = counter("evicted_files", "Replicas unlinked")
        self.quarantined_files = counter("quarantined_files", "Unknown or damaged files put aside", "why")
        self.lost_files = counter("lost_files", "Replicas that are absent and were not safe")
        self.drift_bytes = counter("drift_bytes", "By how much the taken space was counted wrongly; zero, always")
        self.verified_files = counter("verified_files", "Recalled replicas checksummed after an unclean stop")
        self.transfers = Gauge("capstan_cache_transfers", "Transfers under way", registry=registry)
        self.unverified = Gauge("capstan_cache_unverified_files", "Replicas still to be checksummed", registry=registry)

    def render(self) -> bytes:
        return generate_latest(self._registry)
