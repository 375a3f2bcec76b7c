/** A time chart on a canvas (uPlot): colours of the theme, a crosshair shared with its neighbours, events as marks on the time axis. */
import { useEffect, useRef, useState, type KeyboardEvent } from 'react'
import uPlot from 'uplot'

import { usePaintedTheme } from '~/frame/theme'

import { useLatest } from './latest'

export interface Series {
  name: string
  /** A CSS variable, such as `--accent`. */
  color: string
  /** Null: a gap. Undefined: the line goes on past it. */
  values: readonly (number | null | undefined)[]
  fill?: boolean
  dashed?: boolean
}

export interface Mark {
  at: number
  color: string
  /** Where two lie on each other, the one of more weight is seen. */
  weight: number
}

/** Pixels. */
const MARK_GAP = 7

interface Props {
  label: string
  /** Unix milliseconds. */
  at: readonly number[]
  from: number
  to: number
  series: Series[]
  marks: readonly Mark[]
  /** How a figure is written. */
  format: (value: number) => string
  /** The axis reaches at least up to here. */
  atLeast: number
  /** The axis keeps near to the figures, and need not begin at zero. */
  near?: boolean
  /** Cut the axis at powers of two. */
  binary?: boolean
  /** Charts with the same name share their crosshair. */
  sync: string
  /** Where the crosshair is, as an index; null: nowhere. */
  onCursor?: (index: number | null) => void
  /** The crosshair can be moved with the arrow keys; this says what there is at an index. */
  tell?: (index: number) => string
  /** The line that stands out, as an index; null: none. */
  outstanding?: number | null
  height?: number
}

/** The figures with room above and below. */
function around(min: number | null, max: number | null): [number, number] {
  const [low, high] = [min ?? 0, max ?? 1]
  const room = (high - low) * 0.12 || Math.abs(high) * 0.1 || 1
  return [low - room, high + room]
}

/** Values with nothing on either side: no line goes through them. */
function alone(values: ArrayLike<number | null | undefined> | undefined): number[] | null {
  const found: number[] = []
  /** The values since the last gap, and where the newest of them is. */
  let [run, newest] = [0, 0]
  for (let i = 0; i <= (values?.length ?? 0); i += 1) {
    const value = values === undefined || i === values.length ? null : values[i]
    if (value === undefined) continue
    if (value !== null) [run, newest] = [run + 1, i]
    else {
      if (run === 1) found.push(newest)
      run = 0
    }
  }
  return found.length === 0 ? null : found
}

const DASH = [5, 4]
/** How far the crosshair goes with a key: to the side by one step, or by so many. */
const FAR = 10

const css = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

export function Chart({ label, at, from, to, series, marks, format, atLeast, sync, binary = false, near = false, onCursor, tell, outstanding = null, height = 128 }: Props) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const theme = usePaintedTheme()
  const [place, setPlace] = useState<number | undefined>()
  const latest = useLatest({ marks, from, to, atLeast, format, onCursor })
  const shape = series.map((s) => `${s.name}${s.color}${s.fill === true}${s.dashed === true}`).join()

  useEffect(() => {
    const element = box.current
    if (!element) return
    const [muted, line] = [css('--muted'), css('--line')]
    const font = `11px ${css('--font-sans') || 'sans-serif'}`
    const axis: uPlot.Axis = { stroke: muted, font, ticks: { show: false }, grid: { stroke: line, width: 1 } }
    const chart = new uPlot(
      {
        width: element.clientWidth,
        height,
        legend: { show: false },
        focus: { alpha: 0.2 },
        // To the right, half of a time: the last one is not cut off.
        padding: [8, 16, 0, 0],
        cursor: {
          y: false,
          sync: { key: sync, setSeries: false },
          drag: { x: false, y: false },
          points: { size: 5, width: 0 },
        },
        scales: {
          x: { time: true, range: () => [latest.current.from / 1000, latest.current.to / 1000] },
          y: { range: (_, min, max) => (near ? around(min, max) : [0, Math.max(latest.current.atLeast, (max || 0) * 1.12)]) },
        },
        axes: [
          { ...axis, grid: { show: false }, size: 22, gap: 4, space: 70, values: timeLabels },
          { ...axis, ...(binary ? { incrs: POWERS } : {}), size: 64, gap: 6, space: 28, values: (_, splits) => splits.map((v) => latest.current.format(v)) },
        ],
        series: [
          {},
          ...series.map((s) => ({
            label: s.name,
            stroke: css(s.color),
            width: 1.25,
            ...(s.fill === true ? { fill: css(`${s.color}-soft`) } : {}),
            ...(s.dashed === true ? { dash: DASH } : {}),
            points: { show: false, size: 4, width: 0, fill: css(s.color), filter: (u: uPlot, n: number) => alone(u.data[n]) },
            spanGaps: false,
          })),
        ],
        hooks: {
          setCursor: [(u) => latest.current.onCursor?.(u.cursor.idx ?? null)],
          draw: [
            (u) => {
              const { ctx, bbox } = u
              ctx.save()
              ctx.lineWidth = devicePixelRatio
              const { from: left, to: right } = latest.current
              const places = new Map<number, Mark>()
              for (const mark of latest.current.marks) {
                if (mark.at < left || mark.at > right) continue
                // Marks that would lie on each other are one; the graver of them is seen.
                const place = Math.round(u.valToPos(mark.at / 1000, 'x') / MARK_GAP)
                if (mark.weight > (places.get(place)?.weight ?? -1)) places.set(place, mark)
              }
              for (const mark of places.values()) {
                const x = Math.round(u.valToPos(mark.at / 1000, 'x', true))
                ctx.strokeStyle = css(mark.color)
                ctx.fillStyle = css(mark.color)
                ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio])
                ctx.globalAlpha = 0.7
                ctx.beginPath()
                ctx.moveTo(x, bbox.top)
                ctx.lineTo(x, bbox.top + bbox.height)
                ctx.stroke()
                ctx.globalAlpha = 1
                ctx.beginPath()
                ctx.arc(x, bbox.top, 2.5 * devicePixelRatio, 0, Math.PI * 2)
                ctx.fill()
              }
              ctx.restore()
            },
          ],
        },
      },
      [[], ...series.map(() => [])] as unknown as uPlot.AlignedData,
      element,
    )
    plot.current = chart
    const resize = new ResizeObserver(() => {
      if (element.clientWidth > 0) chart.setSize({ width: element.clientWidth, height })
    })
    resize.observe(element)
    return () => {
      resize.disconnect()
      chart.destroy()
      plot.current = null
    }
    // A chart is made anew when its series or colours change; figures are set below.
    // oxlint-disable-next-line react/exhaustive-deps
  }, [shape, theme, sync, binary, near, height])

  useEffect(() => {
    plot.current?.setData([at.map((ms) => ms / 1000), ...series.map((s) => s.values)] as unknown as uPlot.AlignedData)
    // oxlint-disable-next-line react/exhaustive-deps
  }, [at, series, from, to, marks, shape, theme])

  useEffect(() => {
    plot.current?.setSeries(outstanding === null ? null : outstanding + 1, { focus: true })
    // oxlint-disable-next-line react/exhaustive-deps
  }, [outstanding, shape, theme])

  if (tell === undefined) return <div ref={box} role="img" aria-label={label} className="w-full" style={{ height }} />

  const last = at.length - 1
  const stand = (index: number | undefined): void => {
    setPlace(index)
    const ms = index === undefined ? undefined : at[index]
    const left = ms === undefined ? undefined : plot.current?.valToPos(ms / 1000, 'x')
    plot.current?.setCursor({ left: left ?? -10, top: left === undefined ? -10 : 0 })
  }
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.altKey || event.ctrlKey || event.metaKey) return
    const from = place ?? last + 1
    const to = { ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1, PageDown: from - FAR, PageUp: from + FAR, Home: 0, End: last }[event.key]
    if (to === undefined || last < 0) return
    event.preventDefault()
    stand(Math.min(Math.max(to, 0), last))
  }
  const shown = place === undefined ? undefined : Math.min(place, last)
  return (
    <div
      ref={box}
      role="slider"
      tabIndex={0}
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={Math.max(last, 0)}
      aria-valuenow={Math.max(shown ?? last, 0)}
      aria-valuetext={shown === undefined || shown < 0 ? 'Arrow keys go along the axis of time' : tell(shown)}
      onKeyDown={onKeyDown}
      onBlur={() => stand(undefined)}
      className="w-full"
      style={{ height }}
    />
  )
}

const POWERS = Array.from({ length: 46 }, (_, i) => 2 ** i)

const two = (n: number): string => String(n).padStart(2, '0')

/** `14:05`, with seconds where the splits are that close, and the day where another one has begun. */
function timeLabels(_: uPlot, splits: number[]): string[] {
  const step = (splits[1] ?? 0) - (splits[0] ?? 0)
  return splits.map((seconds, i) => {
    const at = new Date(seconds * 1000)
    const before = splits[i - 1]
    if (step >= 86_400 || (before !== undefined && new Date(before * 1000).getDate() !== at.getDate())) return `${at.toLocaleDateString('en', { month: 'short' })} ${at.getDate()}`
    const text = `${two(at.getHours())}:${two(at.getMinutes())}`
    return step > 0 && step < 60 ? `${text}:${two(at.getSeconds())}` : text
  })
}
