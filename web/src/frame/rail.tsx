/** The left rail: where one can go. On a phone it is a sheet behind the menu button. */
import { Link } from '@tanstack/react-router'

import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'

import { useMe } from './me'
import { PLACES, type Place } from './places'

function Group({ title, places, onGo }: { title?: string; places: Place[]; onGo: () => void }) {
  if (places.length === 0) return null
  return (
    <>
      {title !== undefined && <p className="px-3 pt-5 pb-1 text-xs text-muted">{title}</p>}
      <ul>
        {places.map((place) => (
          <li key={place.to}>
            <Link
              to={place.to}
              onClick={onGo}
              activeOptions={{ exact: place.to === '/', includeSearch: false }}
              className="flex h-8 items-center gap-2.5 rounded px-3 text-muted transition-colors hover:bg-hover hover:text-ink"
              activeProps={{ className: 'bg-hover font-medium text-ink! [&>svg]:text-accent', 'aria-current': 'page' }}
            >
              <Icon name={place.icon} />
              {place.title}
            </Link>
          </li>
        ))}
      </ul>
    </>
  )
}

export function Wordmark() {
  return (
    <span className="flex items-center gap-2 font-semibold tracking-tight">
      <svg width="20" height="20" viewBox="0 0 32 32" aria-hidden="true">
        <rect width="32" height="32" rx="8" className="fill-accent" />
        <path
          d="M5 21c3.7 0 3.7-3 7.3-3s3.7 3 7.4 3 3.6-3 7.3-3"
          className="stroke-on-accent"
          fill="none"
          strokeWidth="2.8"
          strokeLinecap="round"
        />
        <circle cx="22" cy="10.5" r="3.2" className="fill-on-accent" />
      </svg>
      Farshore
    </span>
  )
}

export function Rail({ open, onGo }: { open: boolean; onGo: () => void }) {
  const me = useMe()
  const may = PLACES.filter((p) => p.permission === undefined || me?.permissions.includes(p.permission) !== false)
  return (
    <nav
      aria-label="Main"
      className={cx(
        'flex w-48 shrink-0 flex-col border-r border-line bg-bg px-2 pb-4',
        'max-lg:fixed max-lg:inset-y-0 max-lg:left-0 max-lg:z-30 max-lg:w-60 max-lg:bg-surface max-lg:shadow-pop',
        !open && 'max-lg:hidden',
      )}
    >
      <Link to="/" onClick={onGo} className="flex h-12 items-center px-3" aria-label="Farshore, home">
        <Wordmark />
      </Link>
      <Group places={may.filter((p) => p.group === 'fleet')} onGo={onGo} />
      <Group title="Administration" places={may.filter((p) => p.group === 'administration')} onGo={onGo} />
    </nav>
  )
}
