/** Who tells which signal of the device's kernel, and why not something better. */
import type { Device } from '~/api/types'
import { Glyph } from '~/ui/mark'
import { Section } from '~/ui/panel'
import type { Shape, Tone } from '~/ui/state'

const SIGNALS: Record<string, string> = {
  process_exit: 'Processes that end',
  oom_kill: 'Out of memory',
  tcp_retransmit: 'TCP retransmits',
  io_latency: 'Disk latency',
  pressure: 'Stalls',
  exec: 'Programs executed',
  connect: 'Connections begun',
}

const SOURCES: Record<string, { name: string; shape: Shape; tone: Tone }> = {
  ebpf: { name: 'eBPF', shape: 'check', tone: 'ok' },
  psi: { name: 'PSI triggers', shape: 'check', tone: 'ok' },
  netlink: { name: 'netlink', shape: 'dot', tone: 'info' },
  proc: { name: '/proc', shape: 'dot', tone: 'info' },
  none: { name: 'nobody', shape: 'ring', tone: 'quiet' },
}

/** Who told something, as people call it. */
export const sourceName = (by: string): string => SOURCES[by]?.name ?? by

export function Senses({ senses }: { senses: Device['status']['senses'] }) {
  const told = Object.keys(SIGNALS).flatMap((signal) => {
    const sense = senses?.[signal]
    return sense === undefined ? [] : [{ signal, ...sense }]
  })
  if (told.length === 0) return null
  return (
    <Section title="Told by the kernel" flush>
      <dl className="grid gap-px bg-line sm:grid-cols-2 xl:grid-cols-3">
        {told.map(({ signal, by, reason }) => {
          const source = SOURCES[by] ?? { name: by, shape: 'ring' as Shape, tone: 'quiet' as Tone }
          return (
            <div key={signal} className="min-w-0 bg-surface px-4 py-2">
              <dt className="flex items-center gap-2">
                <Glyph shape={source.shape} tone={source.tone} />
                <span>{SIGNALS[signal]}</span>
                <span className="ml-auto text-sm text-muted">{source.name}</span>
              </dt>
              <dd className="text-sm text-muted [overflow-wrap:anywhere]">{reason}</dd>
            </div>
          )
        })}
      </dl>
    </Section>
  )
}
