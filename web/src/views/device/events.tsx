/** Events, newest first: what happened, to what, by whom. */
import { Link } from '@tanstack/react-router'

import type { FleetEvent } from '~/api/types'
import { Glyph } from '~/ui/mark'
import type { Shape, Tone } from '~/ui/state'
import { Time } from '~/ui/time'

import { sourceName } from './senses'

const BAD = /fail|halt|reject|refus|revok|offline|diverg|rolled-back|abort|held|expired/
const GOOD = /succeed|passed|healthy|approved|claimed|renewed|activated|committed|online|resumed/

/** What the look of an event is decided by. */
interface Told {
  type: string
  payload?: unknown
}

/** How a process ended says more than that it did. */
function kernelLook({ type, payload }: Told): { shape: Shape; tone: Tone } | undefined {
  const detail = (payload ?? {}) as { code?: number; signal?: string }
  switch (type) {
    case 'process_exit':
      if (detail.signal === 'SIGTERM' || detail.code === 0) return { shape: 'dot', tone: 'quiet' }
      return { shape: 'cross', tone: detail.signal === undefined ? 'warn' : 'bad' }
    case 'oom_kill':
      return { shape: 'cross', tone: 'bad' }
    case 'tcp_retransmit':
      return { shape: 'dot', tone: 'warn' }
    case 'exec':
    case 'connect':
      return { shape: 'dot', tone: 'quiet' }
    default:
      return undefined
  }
}

export function eventLook(event: Told): { shape: Shape; tone: Tone } {
  const { type } = event
  const kernel = kernelLook(event)
  if (kernel) return kernel
  if (BAD.test(type)) return { shape: 'cross', tone: 'bad' }
  if (GOOD.test(type)) return { shape: 'check', tone: 'ok' }
  return { shape: 'dot', tone: 'info' }
}

const COLORS: Record<Tone, string> = { ok: '--ok', bad: '--bad', warn: '--warn', info: '--accent', quiet: '--muted' }
const WEIGHTS: Record<Tone, number> = { bad: 4, warn: 3, ok: 2, info: 1, quiet: 0 }

/** How an event is marked on a chart. */
export function eventMark(event: Told): { color: string; weight: number } {
  const { tone } = eventLook(event)
  return { color: COLORS[tone], weight: WEIGHTS[tone] }
}

/** Who saw what the kernel tells; undefined for everything else. */
function seenBy({ payload }: Told): string | undefined {
  const { source } = (payload ?? {}) as { source?: unknown }
  return typeof source === 'string' && source !== '' ? sourceName(source) : undefined
}

function Subject({ subject }: { subject: FleetEvent['subject'] }) {
  if (subject.kind === 'Device') {
    return (
      <Link to="/devices/$id" params={{ id: subject.name }} className="link">
        {subject.name}
      </Link>
    )
  }
  if (subject.kind === 'Rollout') {
    return (
      <Link to="/rollouts/$id" params={{ id: subject.name }} className="link">
        {subject.name}
      </Link>
    )
  }
  return <span>{subject.name}</span>
}

export function EventList({ events, withSubject = false }: { events: FleetEvent[]; withSubject?: boolean }) {
  return (
    <ol className="divide-y divide-line">
      {events.map((event) => {
        const { shape, tone } = eventLook(event)
        const by = seenBy(event)
        return (
          <li key={event.uid} className="flex gap-2.5 px-4 py-2">
            <span className="pt-1">
              <Glyph shape={shape} tone={tone} />
            </span>
            <div className="min-w-0 flex-1">
              <p className="[overflow-wrap:anywhere]">
                {withSubject && !event.message.includes(event.subject.name) && (
                  <>
                    <Subject subject={event.subject} />{' '}
                  </>
                )}
                {event.message}
              </p>
              <p className="flex flex-wrap gap-x-2 text-sm text-muted">
                <span className="font-mono text-xs leading-[18px]">{event.type}</span>
                <span className="truncate">{event.actor}</span>
                {by !== undefined && <span>seen by {by}</span>}
                {event.sequence === 0 && <span>shown as it happens, not kept</span>}
              </p>
            </div>
            <Time at={event.at} className="shrink-0 text-sm text-muted" />
          </li>
        )
      })}
    </ol>
  )
}
