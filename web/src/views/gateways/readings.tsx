/** The readings of the gateways that are shown: one measurement, a line for each location, device or series. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate } from '@tanstack/react-router'
import { memo, useEffect, useId, useMemo, useRef, useState, type ReactNode } from 'react'

import type { GatewaySync } from '~/api/gateways'
import { AGGREGATES, offersQuery, seriesQuery, stepOf, type Aggregate, type Offer, type Offers, type Select, type SeriesLine, type SeriesRange } from '~/api/series'
import { useKeys } from '~/frame/keys'
import { buttonClass } from '~/ui/button'
import { Chart, type Mark, type Series } from '~/ui/chart'
import { CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { count, plural } from '~/ui/number'
import { Failure, Loading, StaleNote } from '~/ui/panel'
import { RANGE_MS, USUAL_RANGE } from '~/ui/range'
import { RangePick } from '~/ui/range-pick'
import { Segments } from '~/ui/segments'
import { clock, clockSeconds, Time } from '~/ui/time'

import { align, figure, finished, named, offerName, spread, type Spread } from './lines'
import { command, into, usualBy, withPlace, type By, type GatewaySearch } from './search'

const BY_OPTIONS: { value: By; title: string; means: string }[] = [
  { value: 'location', title: 'Location', means: 'A line for what the devices of a location have, together.' },
  { value: 'device', title: 'Device', means: 'A line for what a device has, together.' },
  { value: 'series', title: 'Series', means: 'A line for each series of each device.' },
]
const MEANS: Record<Aggregate, string> = { mean: 'mean', min: 'least', max: 'greatest', sum: 'sum', count: 'number of readings', last: 'last' }
/** Lines that are told apart: so many colours, whole and dashed. */
const COLORS = 4
const TOLD_APART = 2 * COLORS
/** At most this many lines are drawn and listed. */
const MOST = 60
const HEIGHT = 240
const NO_MARKS: readonly Mark[] = []

interface Props {
  search: GatewaySearch
  shown: readonly GatewaySync[]
}

export function FleetReadings({ search, shown }: Props) {
  const navigate = useNavigate({ from: '/gateways' })
  const { location, device, aggregate = 'mean', range = USUAL_RANGE } = search
  const by = search.by ?? usualBy(search, shown)
  const place = { ...(location === undefined ? {} : { location }), ...(device === undefined ? {} : { device }) }
  const offers = useQuery(offersQuery(place))
  const offer = offerOf(search, offers.data)
  const select: Select = {
    ...place,
    ...(offer === undefined ? {} : { measurement: offer.measurement, field: offer.field }),
    ...(aggregate === 'mean' ? {} : { aggregate }),
    ...(by === 'series' ? {} : { by }),
  }
  const span = RANGE_MS[range]
  const readings = useQuery({ ...seriesQuery(select, span), enabled: offer !== undefined })
  const change = (next: GatewaySearch): void => void navigate({ search: next, replace: true })

  return (
    <section className="panel min-w-0" aria-label="Readings">
      <header className="flex min-h-10 flex-wrap items-center gap-x-4 gap-y-1 border-b border-line px-4 py-1">
        <h2 className="font-semibold">Readings</h2>
        <Crumbs search={search} shown={shown} offer={offer} />
        <div className="ml-auto flex flex-wrap items-center gap-1">
          {offer !== undefined && <CopyButton label="Command" text={() => command(search, offer, by, stepOf(span))} />}
          <RangePick range={range} onPick={(next) => change({ ...search, range: next })} />
        </div>
      </header>
      {offer === undefined ? (
        <div className="p-4">
          {offers.data === undefined ? (
            offers.isError ? (
              <Failure what="What there is to draw can’t be listed" error={offers.error} retry={() => void offers.refetch()} />
            ) : (
              <div style={{ minHeight: HEIGHT }}>
                <Loading what="readings" lines={6} />
              </div>
            )
          ) : (
            <p className="text-muted">{offers.data.texts ? 'What came in are texts, which can’t be drawn. The device’s page lists its pipelines and documents.' : 'No readings have come in yet. They are here a moment after their gateway has sent them.'}</p>
          )}
        </div>
      ) : (
        <>
          <Controls search={search} by={by} offer={offer} offers={offers.data} onChange={change} />
          {readings.isError && (
            <div className="px-4 pb-3">
              {readings.data === undefined || readings.isPlaceholderData ? (
                <Failure what="The readings can’t be read" error={readings.error} retry={() => void readings.refetch()} />
              ) : (
                <StaleNote error={readings.error} since={<Time at={readings.dataUpdatedAt} />} />
              )}
            </div>
          )}
          {readings.data === undefined ? (
            !readings.isError && (
              <div className="px-4 pb-4" style={{ minHeight: HEIGHT }}>
                <Loading what="readings" lines={6} />
              </div>
            )
          ) : (
            <div aria-busy={readings.isPlaceholderData} className={cx('transition-opacity', readings.isPlaceholderData && 'opacity-50')}>
              <Drawing data={readings.data} search={search} offer={offer} by={by} shown={shown} />
            </div>
          )}
        </>
      )}
    </section>
  )
}

/** What the address names, whether it is offered or not; without one, what most series have. */
function offerOf(search: GatewaySearch, offers: Offers | undefined): Offer | undefined {
  if (search.measurement === undefined) return offers?.offers[0]
  return { measurement: search.measurement, field: search.field ?? '', series: 0 }
}

const same = (a: Offer, b: Offer): boolean => a.measurement === b.measurement && a.field === b.field
const keyOf = (offer: Offer): string => JSON.stringify([offer.measurement, offer.field])

interface ControlProps {
  search: GatewaySearch
  by: By
  offer: Offer
  offers: Offers | undefined
  onChange: (next: GatewaySearch) => void
}

function Controls({ search, by, offer, offers, onChange }: ControlProps) {
  const id = useId()
  const known = offers?.offers ?? []
  const all = known.some((one) => same(one, offer)) ? known : [offer, ...known]
  const { measurement: _m, field: _f, ...rest } = search
  return (
    <div className="flex flex-wrap items-center gap-x-5 gap-y-2 px-4 py-3">
      <div className="flex min-w-0 items-center gap-2 max-sm:w-full">
        <label htmlFor={`${id}-what`} className="text-muted max-sm:w-24">
          Measurement
        </label>
        <select
          id={`${id}-what`}
          className="field h-7 min-w-0 max-sm:flex-1 sm:max-w-80"
          value={keyOf(offer)}
          onChange={(event) => {
            const next = all.find((one) => keyOf(one) === event.target.value)
            if (next) onChange({ ...rest, measurement: next.measurement, ...(next.field === '' ? {} : { field: next.field }) })
          }}
        >
          {all.map((one) => (
            <option key={keyOf(one)} value={keyOf(one)}>
              {offerName(one)}
              {one.series > 0 && ` (${count(one.series)})`}
            </option>
          ))}
        </select>
      </div>
      <div className="flex min-w-0 items-center gap-2 max-sm:w-full">
        <label htmlFor={`${id}-value`} className="text-muted max-sm:w-24">
          Value
        </label>
        <select id={`${id}-value`} className="field h-7 max-sm:flex-1" value={search.aggregate ?? 'mean'} onChange={(event) => onChange({ ...search, aggregate: event.target.value as Aggregate })}>
          {AGGREGATES.map((one) => (
            <option key={one} value={one}>
              {MEANS[one]}
            </option>
          ))}
        </select>
      </div>
      <div className="flex items-center gap-2">
        <span aria-hidden="true" className="text-muted max-sm:w-24">
          A line for each
        </span>
        <Segments label="A line for each" options={BY_OPTIONS} value={by} onPick={(next) => onChange({ ...search, by: next })} />
      </div>
      {offers?.whole === false && <p className="text-sm text-muted">There are more series than are listed here; choose a location or a device.</p>}
    </div>
  )
}

/** Where one is: all gateways, a location, a device; each but the last leads back. */
function Crumbs({ search, shown, offer }: Props & { offer: Offer | undefined }) {
  const navigate = useNavigate({ from: '/gateways' })
  const { device, range } = search
  const location = search.location ?? (device === undefined ? undefined : shown[0]?.location || undefined)
  const steps: { title: string; search: GatewaySearch }[] = [{ title: 'All gateways', search: withPlace(search, offer, {}) }]
  if (location !== undefined) steps.push({ title: location, search: withPlace(search, offer, { location }) })
  if (device !== undefined) steps.push({ title: device, search })
  const above = steps.at(-2)
  useKeys('Readings of gateways', above === undefined ? [] : [{ keys: 'u', does: `Up: ${above.title}`, run: () => void navigate({ search: above.search }) }])

  // What led here goes as soon as other lines have come: the focus goes to where one is now.
  const here = useRef<HTMLSpanElement>(null)
  const place = JSON.stringify([search.location, device])
  const was = useRef(place)
  useEffect(() => {
    if (was.current === place) return
    was.current = place
    const focused = document.activeElement
    if (focused === document.body || here.current?.closest('section')?.contains(focused)) here.current?.focus({ preventScroll: true })
  }, [place])

  return (
    <nav aria-label="Whose readings" className="flex min-w-0 flex-wrap items-center gap-x-1.5 text-sm">
      {steps.map((step, i) => (
        <span key={step.title} className="flex min-w-0 items-center gap-1.5">
          {i > 0 && (
            <span aria-hidden="true" className="text-muted">
              ›
            </span>
          )}
          {i === steps.length - 1 ? (
            <span ref={here} tabIndex={-1} data-quiet-focus aria-current="page" className="truncate">
              {step.title}
            </span>
          ) : (
            <Link to="/gateways" search={step.search} className="truncate text-muted hover:text-accent">
              {step.title}
            </Link>
          )}
        </span>
      ))}
      {device !== undefined && (
        <Link to="/devices/$id" params={{ id: device }} search={range === undefined ? {} : { range }} className={buttonClass('ghost', true)}>
          Open the device
        </Link>
      )}
    </nav>
  )
}

interface DrawingProps extends Props {
  data: SeriesRange
  offer: Offer
  by: By
}

interface Row {
  name: string
  line: SeriesLine
  color: string
  dashed: boolean
  spread: Spread
}

function Drawing({ data, search, offer, by, shown }: DrawingProps) {
  const { range = USUAL_RANGE } = search
  const [cursor, setCursor] = useState<number | null>(null)
  const [outstanding, setOutstanding] = useState<number | null>(null)
  const { rows, more, at, series } = useMemo(() => {
    // A measurement is asked for with each of its fields where its own has no name.
    const lines = data.items.filter((line) => line.field === offer.field).map((line) => finished(line, data.aggregate, data.stepMs, data.to))
    const all = named(lines, data.by === 'all' ? 'location' : data.by)
    const told = all.length <= TOLD_APART
    const rows = all.slice(0, MOST).map(({ name, line }, i): Row => ({ name, line, spread: spread(line.values), color: told ? `--line-${(i % COLORS) + 1}` : '--line-1', dashed: told && i >= COLORS }))
    const { at, values } = align(rows.map((row) => row.line), data.stepMs)
    return { rows, more: all.length - rows.length, at, series: rows.map((row, i): Series => ({ name: row.name, color: row.color, dashed: row.dashed, values: values[i] ?? [] })) }
  }, [data, offer.field])
  const marks = useMemo(
    () => (shown.some((one) => one.losses.length > 0) ? shown.flatMap((one) => one.losses.map((loss): Mark => ({ at: loss.from, color: '--warn', weight: 1 }))) : NO_MARKS),
    [shown],
  )
  const lost = marks.some((mark) => mark.at >= data.from && mark.at <= data.to)
  const moment = cursor === null ? undefined : at[cursor]
  const when = (ms: number): string => (data.stepMs < 60_000 ? clockSeconds(ms) : clock(ms))
  const valueAt = (row: number, index: number): number | null | undefined => series[row]?.values[index]

  if (rows.length === 0) {
    return (
      <Notes truncated={data.truncated}>
        <p className="px-4 pb-4 text-muted">
          No readings of {offerName(offer)} in the last {range}.
        </p>
      </Notes>
    )
  }
  return (
    <Notes truncated={data.truncated}>
      <div className="px-3">
        <Chart
          label={`${offerName(offer)}, ${MEANS[data.aggregate]} by ${data.by}, over the last ${range}`}
          at={at}
          from={data.from}
          to={data.to}
          series={series}
          marks={marks}
          format={figure}
          atLeast={1}
          near={data.aggregate !== 'count'}
          sync="gateways"
          height={HEIGHT}
          onCursor={setCursor}
          outstanding={outstanding}
          tell={(index) => `${when(at[index] ?? 0)}: ${rows.slice(0, TOLD_APART).map((row, i) => `${row.name} ${written(valueAt(i, index))}`).join(', ')}`}
        />
      </div>
      {lost && <p className="px-4 pt-1 text-sm text-warn">A dashed upright line: readings were lost from there on (see Losses).</p>}
      <div className="mt-1 max-h-80 overflow-y-auto border-t border-line">
        <table className="w-full" aria-label={`${offerName(offer)} by ${data.by}`}>
          <thead className="sticky top-0 bg-surface">
            <tr className="text-left text-sm text-muted">
              <th className="py-1.5 pl-4 font-normal">{BY_OPTIONS.find((one) => one.value === data.by)?.title}</th>
              <th className="py-1.5 pr-4 text-right font-normal whitespace-nowrap">{moment === undefined ? 'Last' : `At ${when(moment)}`}</th>
              <th className="w-24 py-1.5 pr-4 text-right font-normal max-sm:hidden">Least</th>
              <th className="w-24 py-1.5 pr-4 text-right font-normal max-sm:hidden">Greatest</th>
            </tr>
          </thead>
          <tbody className="divide-y divide-line border-t border-line">
            {rows.map((row, i) => (
              <tr
                key={`${row.name} ${row.line.stream ?? ''}`}
                className="hover:bg-hover"
                onPointerEnter={() => setOutstanding(i)}
                onPointerLeave={() => setOutstanding(null)}
                onFocus={() => setOutstanding(i)}
                onBlur={() => setOutstanding(null)}
              >
                <td className="py-1 pl-4">
                  <span className="flex min-w-0 items-center gap-2">
                    <Swatch row={row} />
                    <Into row={row} by={by} search={search} offer={offer} />
                  </span>
                </td>
                <td className="w-28 py-1 pr-4 text-right whitespace-nowrap">{written(cursor === null ? row.spread.last : valueAt(i, cursor))}</td>
                <td className="py-1 pr-4 text-right text-muted max-sm:hidden">{written(row.spread.least)}</td>
                <td className="py-1 pr-4 text-right text-muted max-sm:hidden">{written(row.spread.most)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {more > 0 && (
        <p className="border-t border-line px-4 py-2 text-sm text-muted">
          {plural(more, 'more line')}; the command shows all, and a location or a device those it has.
        </p>
      )}
    </Notes>
  )
}

const written = (value: number | null | undefined): string => (value === undefined || value === null ? '–' : figure(value))

/** What is drawn, and whether that is all of it. */
function Notes({ truncated, children }: { truncated: boolean; children: ReactNode }) {
  return (
    <>
      {truncated && (
        <p role="status" className="mx-4 mb-3 rounded border border-warn bg-warn-soft px-3 py-1.5 text-sm">
          <strong className="text-warn">Not all of it.</strong> There was more than one answer may hold: choose a location, a device or a shorter range.
        </p>
      )}
      {children}
    </>
  )
}

/** How the row’s line is drawn. */
const Swatch = ({ row }: { row: Row }) => (
  <svg width="18" height="4" aria-hidden="true" className="shrink-0">
    <path d="M0 2H18" stroke={`var(${row.color})`} strokeWidth="2" {...(row.dashed ? { strokeDasharray: '5 3' } : {})} />
  </svg>
)

/** A row’s name, which leads a level down. The crosshair moves through all rows: links are not made anew for it. */
const Into = memo(function Into({ row, by, search, offer }: { row: Row; by: By; search: GatewaySearch; offer: Offer }) {
  const to = into(row.line, by, search, offer)
  const look = 'min-w-0 [overflow-wrap:anywhere] font-medium hover:text-accent'
  if (to === undefined) return <span className="text-muted">{row.name}</span>
  if ('device' in to) {
    return (
      <Link to="/devices/$id" params={{ id: to.device }} search={search.range === undefined ? {} : { range: search.range }} className={look}>
        {row.name}
      </Link>
    )
  }
  return (
    <Link to="/gateways" search={to.search} className={look}>
      {row.name}
    </Link>
  )
})
