/** What happened to a rollout: when, what, by whom and why. Newest first. */
import type { HistoryEntry } from '~/api/types'
import { Glyph } from '~/ui/mark'
import { Section } from '~/ui/panel'
import { clock, exact, useNow } from '~/ui/time'

import { eventLook } from '../device/events'

/** `user:anna@example` is a person; the engine is not named. */
function person(who: string): string | undefined {
  const name = who.replace(/^user:/, '')
  return name === '' || name === 'engine' ? undefined : name
}

export function History({ entries }: { entries: HistoryEntry[] }) {
  const now = useNow()
  return (
    <Section title="History" flush>
      {entries.length === 0 ? (
        <p className="px-4 py-3 text-muted">Nothing has happened yet.</p>
      ) : (
        <ol className="divide-y divide-line">
          {entries.toReversed().map((entry) => {
            const { shape, tone } = eventLook({ type: entry.what.toLowerCase() })
            const who = person(entry.who)
            return (
              <li key={`${entry.at}${entry.what}${entry.message}`} className="flex gap-2.5 px-4 py-2">
                <time dateTime={new Date(entry.at).toISOString()} title={exact(entry.at)} className="w-24 shrink-0 text-sm leading-5 text-muted">
                  {clock(entry.at, now)}
                </time>
                <span className="pt-1">
                  <Glyph shape={shape} tone={tone} />
                </span>
                <div className="min-w-0 flex-1">
                  <p className="[overflow-wrap:anywhere]">
                    {entry.message}
                    {who !== undefined && !entry.message.includes(who) && <span className="text-muted"> by {who}</span>}
                  </p>
                  {entry.comment !== undefined && entry.comment !== '' && <p className="text-muted">“{entry.comment}”</p>}
                </div>
              </li>
            )
          })}
        </ol>
      )}
    </Section>
  )
}
