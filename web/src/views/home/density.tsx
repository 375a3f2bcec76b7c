/** The fleet by location: the longer the bar, the more devices; the fill says how many are online. */
import { Link } from '@tanstack/react-router'

import type { LocationSummary } from '~/api/types'
import { Glyph } from '~/ui/mark'
import { count } from '~/ui/number'

const MOST_CELLS = 60

/** One cell for each device, or for each so many, so that the biggest location has about sixty. */
function perCell(locations: readonly LocationSummary[]): number {
  const most = Math.max(1, ...locations.map((l) => l.total))
  const raw = most / MOST_CELLS
  return [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000].find((n) => n >= raw) ?? Math.ceil(raw)
}

export function Density({ locations }: { locations: readonly LocationSummary[] }) {
  const each = perCell(locations)
  const sorted = locations.toSorted((a, b) => b.total - a.total)
  return (
    <>
      <ul className="grid gap-x-8 gap-y-3 p-4 sm:grid-cols-2 2xl:grid-cols-3">
        {sorted.map((place) => {
          const silent = place.total - place.online
          const cells = Math.max(1, Math.round(place.total / each))
          const bad = place.unhealthy > 0 ? Math.max(1, Math.round(place.unhealthy / each)) : 0
          const off = silent > 0 ? Math.max(1, Math.round(silent / each)) : 0
          return (
            <li key={place.location}>
              <Link to="/devices" search={{ location: place.location }} className="group block rounded">
                <span className="flex items-baseline justify-between gap-3">
                  <span className="truncate font-medium group-hover:text-accent">{place.location || 'no location'}</span>
                  <span className="flex shrink-0 items-baseline gap-3 text-sm text-muted">
                    {place.unhealthy > 0 && (
                      <span className="flex items-center gap-1">
                        <Glyph shape="bang" tone="warn" size={10} />
                        {count(place.unhealthy)} unhealthy
                      </span>
                    )}
                    {silent > 0 && (
                      <span className="flex items-center gap-1">
                        <Glyph shape="ring" tone="quiet" size={10} />
                        {count(silent)} silent
                      </span>
                    )}
                    <span className="text-ink">{count(place.total)}</span>
                  </span>
                </span>
                <span aria-hidden="true" className="mt-1.5 flex flex-wrap gap-[3px]">
                  {Array.from({ length: cells }, (_, i) => (
                    <span
                      key={i}
                      className={
                        i < bad
                          ? 'h-2 w-2 rounded-[2px] bg-warn'
                          : i < cells - off
                            ? 'h-2 w-2 rounded-[2px] bg-accent'
                            : 'h-2 w-2 rounded-[2px] border border-line-strong'
                      }
                    />
                  ))}
                </span>
              </Link>
            </li>
          )
        })}
      </ul>
      <p className="flex flex-wrap gap-x-4 border-t border-line px-4 py-2 text-sm text-muted">
        <span>Each square is {each === 1 ? 'a device' : `${count(each)} devices`}:</span>
        <span className="flex items-center gap-1.5">
          <span className="h-2 w-2 rounded-[2px] bg-accent" /> online
        </span>
        <span className="flex items-center gap-1.5">
          <span className="h-2 w-2 rounded-[2px] bg-warn" /> unhealthy
        </span>
        <span className="flex items-center gap-1.5">
          <span className="h-2 w-2 rounded-[2px] border border-line-strong" /> stale or offline
        </span>
      </p>
    </>
  )
}
