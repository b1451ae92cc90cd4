"""Whose weights take what acts at each site: all that acts on one weight, in order."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from peftlang.emit.applications import Application
from peftlang.ir.plan import Rows, Site
from peftlang.sites.neighbours import Neighbours


@dataclass
class Job:
    """All that acts on one projection, norm or embedding, nearest to the weights first.

    Attributes:
        host: The site whose weights change.
        own: Applications at the host itself.
        before: Applications that change what the host reads (at ``ffn.act``).
        after: Applications that change what it hands on (at a sub-layer).
    """

    host: Site
    own: list[Application] = field(default_factory=list)
    before: list[Application] = field(default_factory=list)
    after: list[Application] = field(default_factory=list)

    @property
    def all(self) -> list[Application]:
        return [*self.before, *self.own, *self.after]

    def part(self, application: Application) -> Rows | None:
        """Which of the host's rows the application acts on; None for all."""
        return None if application.site.rows == self.host.rows else application.site.rows


def by_weight(by_site: Mapping[str, list[Application]], neighbours: Neighbours) -> list[Job]:
    """One job for each weight, or for each part of one that nothing acts on as a whole."""
    hosts: dict[str, list[tuple[Site, str, list[Application]]]] = {}
    for site_id, found in by_site.items():
        site = found[0].site
        reader, writer = neighbours.reader.get(site_id), neighbours.writer.get(site_id)
        host, kind = reader or writer or site, "before" if reader else "after" if writer else "own"
        key = f"{host.weight}:{host.dims.get('expert')}" if host.weight else host.id
        hosts.setdefault(key, []).append((host, kind, found))
    return [job for parts in hosts.values() for job in _jobs(parts)]


def _jobs(parts: list[tuple[Site, str, list[Application]]]) -> list[Job]:
    whole = any(host.rows is None for host, _, _ in parts)
    jobs: dict[Rows | None, Job] = {}
    for host, kind, found in parts:
        rows = None if whole else host.rows
        job = jobs.setdefault(rows, Job(host.model_copy(update={"rows": rows})))
        getattr(job, kind).extend(found)
    for job in jobs.values():
        for acting in (job.own, job.before, job.after):
            acting.sort(key=lambda application: application.rank)
    return list(jobs.values())
