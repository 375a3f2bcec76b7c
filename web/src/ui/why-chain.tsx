/** The chain of reasons: the first link says what is, the others what stands behind it, who has to act and until when. */
import { Link } from '@tanstack/react-router'
import type { ReactNode } from 'react'

import type { Cause } from '~/api/rollout-types'

import { cx } from './cx'
import { clock, duration, exact, useNow } from './time'

const OWNERS: Record<NonNullable<Cause['owner']>, string> = {
  engine: 'goes on by itself',
  device: 'the device has to act',
  operator: 'a person has to act',
  unknown: '',
}

/** An object as the command line names it, `device/till-7`: a link where the page has a view of it. */
export function ObjectLink({ name, children }: { name: string; children?: ReactNode }) {
  const [kind = '', id = ''] = name.split(/\/(.*)/)
  const text = children ?? id
  if (kind === 'device') return <Link to="/devices/$id" params={{ id }} className="link">{text}</Link>
  if (kind === 'rollout') return <Link to="/rollouts/$id" params={{ id }} className="link">{text}</Link>
  return <span>{text}</span>
}

/** Who has to act, until when, and for how long it has been so. */
function Details({ cause, now }: { cause: Cause; now: number }) {
  const parts = [
    cause.owner === undefined ? '' : OWNERS[cause.owner],
    cause.deadline === undefined ? '' : `${cause.deadline < now ? 'should have ended' : 'until'} ${clock(cause.deadline, now)}`,
    cause.since === undefined ? '' : `for ${duration(Math.max(0, now - cause.since))}`,
  ].filter((part) => part !== '')
  if (parts.length === 0) return null
  const title = [cause.since, cause.deadline].filter((at) => at !== undefined).map(exact).join(' – ')
  return (
    <span className="text-sm text-muted" title={title}>
      {' '}
      · {parts.join(' · ')}
    </span>
  )
}

export function WhyChain({ chain, about }: { chain: readonly Cause[]; about?: string }) {
  const now = useNow()
  if (chain.length === 0) return null
  return (
    <ol aria-label="Why" className="flex flex-col gap-0.5">
      {chain.map((cause, i) => (
        <li key={`${cause.code}${cause.message}`} className="flex gap-2.5">
          <span aria-hidden="true" className="w-3 shrink-0 text-center text-muted">
            {i === 0 ? '•' : '↳'}
          </span>
          <p className="min-w-0 flex-1 [overflow-wrap:anywhere]">
            <span className={cx(cause.owner === 'operator' && 'font-medium text-warn')}>{cause.message}</span>
            {cause.link !== undefined && cause.link !== about && !cause.message.includes(cause.link.split('/')[1] ?? '\0') && (
              <span className="text-muted">
                {' '}
                (<ObjectLink name={cause.link} />)
              </span>
            )}
            <Details cause={cause} now={now} />
          </p>
        </li>
      ))}
    </ol>
  )
}
