/** The chain of reasons: the first is the answer, the others are what stands behind it. */
import type { Reason } from '~/api/types'

import { Time } from './time'

export function Why({ reasons }: { reasons: readonly Reason[] }) {
  if (reasons.length === 0) return null
  return (
    <div className="flex gap-1.5">
      <span className="text-muted">why:</span>
      <ul className="min-w-0">
        {reasons.map((reason) => (
          <li key={`${reason.code}${reason.since}${reason.message}`} className="[overflow-wrap:anywhere]">
            {reason.message} <Time at={reason.since} className="text-sm text-muted" />
          </li>
        ))}
      </ul>
    </div>
  )
}
