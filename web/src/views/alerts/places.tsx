/** What the views of alerts share: the way between them, and how bad something is. */
import { Link } from '@tanstack/react-router'

import { cx } from '~/ui/cx'
import type { Look } from '~/ui/state'

export const SEVERITIES: Record<string, Look> = {
  critical: { shape: 'cross', tone: 'bad', means: 'Something is broken now.' },
  warning: { shape: 'bang', tone: 'warn', means: 'Something needs a look soon.' },
  info: { shape: 'dot', tone: 'info', means: 'Good to know.' },
}
export const UNKNOWN: Look = { shape: 'question', tone: 'quiet', means: 'A word that this page does not know.' }

const PLACES = [
  { at: 'firing', title: 'Firing', to: '/alerts', search: {} },
  { at: 'ended', title: 'Over', to: '/alerts', search: { state: 'ended' } },
  { at: 'rules', title: 'Rules', to: '/alerts/rules', search: {} },
  { at: 'routes', title: 'Routes', to: '/alerts/routes', search: {} },
  { at: 'messages', title: 'Messages', to: '/alerts/messages', search: {} },
] as const

export function AlertPlaces({ at }: { at: (typeof PLACES)[number]['at'] }) {
  return (
    <nav aria-label="Alerts" className="flex flex-wrap gap-1">
      {PLACES.map((place) => (
        <Link
          key={place.at}
          to={place.to}
          search={place.search}
          aria-current={place.at === at ? 'page' : undefined}
          className={cx('rounded px-2 py-1 hover:bg-hover', place.at === at ? 'bg-hover font-medium' : 'text-muted')}
        >
          {place.title}
        </Link>
      ))}
    </nav>
  )
}
