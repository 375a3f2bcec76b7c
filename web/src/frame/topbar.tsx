/** The top bar: tenant, search, freshness, person. */
import { useQueryClient } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'

import { chooseTenant, post } from '~/api/client'
import { buttonClass } from '~/ui/button'
import { Icon } from '~/ui/icon'
import { Menu } from '~/ui/menu'

import { LiveIndicator } from './live-indicator'
import { useMe } from './me'
import { setTheme, useTheme, type Theme } from './theme'

const THEMES: { value: Theme; label: string; icon: 'screen' | 'sun' | 'moon' }[] = [
  { value: 'system', label: 'As the system', icon: 'screen' },
  { value: 'light', label: 'Light', icon: 'sun' },
  { value: 'dark', label: 'Dark', icon: 'moon' },
]

interface Props {
  onMenu: () => void
  onSearch: () => void
  onHelp: () => void
  onTenant: () => void
}

export function TopBar({ onMenu, onSearch, onHelp, onTenant }: Props) {
  const me = useMe()
  const client = useQueryClient()
  const navigate = useNavigate()
  const theme = useTheme()
  const logout = async (): Promise<void> => {
    await post('/logout').catch(() => undefined)
    chooseTenant(undefined)
    client.clear()
    await navigate({ to: '/login' })
  }
  return (
    <header className="flex h-12 shrink-0 items-center gap-1 border-b border-line bg-bg px-2 sm:px-4">
      <button type="button" onClick={onMenu} aria-label="Menu" className={`${buttonClass('ghost')} px-2! lg:hidden`}>
        <Icon name="menu" />
      </button>
      {me && me.tenants.length > 1 ? (
        <Menu
          label={`Tenant: ${me.tenant}`}
          align="left"
          button={
            <>
              <span className="font-medium text-ink">{me.tenant}</span>
              <Icon name="down" size={12} />
            </>
          }
          items={me.tenants.map((tenant) => ({
            label: tenant,
            chosen: tenant === me.tenant,
            onPick: () => {
              chooseTenant(tenant)
              onTenant()
            },
          }))}
        />
      ) : (
        <span className="truncate px-2 font-medium">{me?.tenant ?? ' '}</span>
      )}
      <div className="flex-1" />
      <button
        type="button"
        onClick={onSearch}
        aria-label="Search and commands"
        className="flex h-8 items-center gap-2 rounded border border-line bg-surface px-2.5 text-muted transition-colors hover:border-line-strong hover:text-ink sm:w-56"
      >
        <Icon name="search" size={14} />
        <span className="flex-1 text-left max-sm:hidden">Search</span>
        <span className="kbd max-sm:hidden">Ctrl K</span>
      </button>
      <LiveIndicator />
      <button type="button" onClick={onHelp} aria-label="Keys" className={`${buttonClass('ghost')} px-2! max-sm:hidden`}>
        <Icon name="help" />
      </button>
      <Menu
        label={`Account: ${me?.email ?? ''}`}
        button={<Icon name="user" />}
        className={`${buttonClass('ghost')} px-2!`}
        head={
          me && (
            <>
              <span className="block font-medium text-ink">{me.email}</span>
              {me.role} in {me.tenant}
            </>
          )
        }
        items={[
          ...THEMES.map(({ value, label, icon }) => ({
            label: (
              <>
                <Icon name={icon} size={14} />
                {label}
              </>
            ),
            chosen: theme === value,
            onPick: () => setTheme(value),
          })),
          'line',
          {
            label: (
              <>
                <Icon name="out" size={14} />
                Log out
              </>
            ),
            onPick: () => void logout(),
          },
        ]}
      />
    </header>
  )
}
