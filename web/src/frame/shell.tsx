/** The frame around every view but the login: rail, top bar, keys, palette, event stream. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Outlet, useNavigate } from '@tanstack/react-router'
import { useCallback, useEffect, useState } from 'react'

import { ApiError, chooseTenant, chosenTenant } from '~/api/client'
import { followEvents } from '~/api/live'
import { meQuery } from '~/api/queries'
import { Failure } from '~/ui/panel'

import { Announcer } from './announcer'
import { KeySheet } from './key-sheet'
import { listenForKeys, useKeys } from './keys'
import { Palette } from './palette'
import { PLACES } from './places'
import { Rail } from './rail'
import { TopBar } from './topbar'

export function Shell() {
  const me = useQuery(meQuery)
  const client = useQueryClient()
  const navigate = useNavigate()
  const [open, setOpen] = useState<'palette' | 'keys' | 'rail' | undefined>()

  const signedOut = me.error instanceof ApiError && me.error.status === 401
  const toLogin = useCallback(() => {
    // Asked more than once, by the stream and by a query: the first one wins. The login empties what is kept.
    if (location.pathname === '/login') return
    void navigate({ to: '/login', search: { next: location.pathname + location.search } })
  }, [navigate])

  useEffect(() => {
    if (signedOut) toLogin()
  }, [signedOut, toLogin])
  // The tenant chosen in this browser may be one that this person no longer may act in.
  const refused = me.error instanceof ApiError && (me.error.status === 403 || me.error.status === 404)
  const { refetch } = me
  useEffect(() => {
    if (!refused || chosenTenant() === undefined) return
    chooseTenant(undefined)
    void refetch()
  }, [refused, refetch])
  const tenant = me.data?.tenant
  useEffect(() => {
    if (tenant === undefined) return
    return followEvents(client, tenant, toLogin)
  }, [tenant, client, toLogin])
  useEffect(listenForKeys, [])

  useKeys('Everywhere', [
    { keys: 'mod+k', does: 'Search and commands', run: () => setOpen('palette'), always: true },
    { keys: '?', does: 'Keys', run: () => setOpen('keys') },
    { keys: 'Escape', does: 'Leave the field, close what is open', run: () => leave(setOpen), always: true },
  ])
  useKeys(
    'Go to',
    PLACES.map((place) => ({ keys: `g ${place.key}`, does: place.title, run: () => void navigate({ to: place.to }) })),
  )

  if (me.isError && !signedOut && !me.data) {
    return (
      <main className="mx-auto max-w-xl p-6 pt-[20vh]">
        <h1 className="sr-only">Farshore</h1>
        <Failure what="The page can’t be shown" error={me.error} retry={() => void me.refetch()} />
      </main>
    )
  }
  return (
    <div className="flex h-dvh">
      <a
        href="#main"
        className="panel sr-only z-50 px-3 py-2 shadow-pop focus:not-sr-only focus:absolute focus:top-2 focus:left-2"
      >
        Skip to content
      </a>
      <Rail open={open === 'rail'} onGo={() => setOpen(undefined)} />
      {open === 'rail' && (
        <button
          type="button"
          aria-label="Close the menu"
          onClick={() => setOpen(undefined)}
          className="fixed inset-0 z-20 bg-black/40 lg:hidden"
        />
      )}
      <div className="flex min-w-0 flex-1 flex-col">
        <TopBar
          onMenu={() => setOpen('rail')}
          onSearch={() => setOpen('palette')}
          onHelp={() => setOpen('keys')}
          onTenant={() => void client.resetQueries()}
        />
        <main id="main" tabIndex={-1} data-quiet-focus className="min-h-0 flex-1 overflow-y-auto">
          <Outlet />
        </main>
      </div>
      <Announcer />
      {open === 'palette' && <Palette onClose={() => setOpen(undefined)} />}
      {open === 'keys' && <KeySheet onClose={() => setOpen(undefined)} />}
    </div>
  )
}

function leave(setOpen: (open: undefined) => void): void {
  setOpen(undefined)
  if (document.activeElement instanceof HTMLElement && document.activeElement.tagName === 'INPUT') {
    document.activeElement.blur()
  }
}
