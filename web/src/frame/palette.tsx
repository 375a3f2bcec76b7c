/** The command palette: what this page can do first, then places, then devices and rollouts found by name. */
import { useQuery } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { useEffect, useId, useRef, useState } from 'react'

import { devicesQuery } from '~/api/queries'
import { rolloutsQuery } from '~/api/rollouts'
import { cx } from '~/ui/cx'
import { Icon, type IconName } from '~/ui/icon'
import { useLatest } from '~/ui/latest'

import { Keys } from './key-sheet'
import { useKeyGroups } from './keys'
import { PLACES } from './places'

interface Entry {
  id: string
  group: string
  icon: IconName
  title: string
  note?: string
  keys?: string
  run: () => void
}

const FOUND = 6
/** The groups of entries that need no answer from the server. */
const OWN: readonly string[] = ['On this page', 'Go to']

export function Palette({ onClose }: { onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const [text, setText] = useState('')
  // Kept by name, not by place: answers arrive above what somebody has already moved to.
  const [chosen, setChosen] = useState<string | undefined>()
  // Enter was pressed before the answers for this text were there: it is for the first of them.
  const [waiting, setWaiting] = useState(false)
  const wanted = text.trim()
  const navigate = useNavigate()
  const groups = useKeyGroups()
  const id = useId()
  const devices = useQuery({ ...devicesQuery({ q: wanted, limit: FOUND }), enabled: wanted.length > 1 })
  const rollouts = useQuery({ ...rolloutsQuery, enabled: wanted.length > 1 })
  const answered = wanted.length < 2 || (!devices.isPending && !rollouts.isPending)

  useEffect(() => {
    const element = dialog.current
    if (element && !element.open) element.showModal()
    return () => element?.close()
  }, [])

  const fits = (title: string): boolean => title.toLowerCase().includes(wanted.toLowerCase())
  const entries: Entry[] = []
  for (const group of groups) {
    if (group.title === 'Everywhere' || group.title === 'Go to') continue
    for (const binding of group.bindings) {
      if (!fits(binding.does)) continue
      entries.push({
        id: `${group.title}${binding.keys}`,
        group: 'On this page',
        icon: 'right',
        title: binding.does,
        keys: binding.keys,
        run: () => binding.run(new KeyboardEvent('keydown')),
      })
    }
  }
  for (const place of PLACES) {
    if (!fits(place.title)) continue
    entries.push({
      id: place.to,
      group: 'Go to',
      icon: place.icon,
      title: place.title,
      keys: `g ${place.key}`,
      run: () => void navigate({ to: place.to }),
    })
  }
  if (fits('New rollout')) {
    entries.push({ id: 'new', group: 'Go to', icon: 'plus', title: 'New rollout', run: () => void navigate({ to: '/rollouts/new' }) })
  }
  if (wanted.length > 1) {
    for (const device of devices.data?.items ?? []) {
      entries.push({
        id: device.metadata.uid,
        group: 'Devices',
        icon: 'device',
        title: device.metadata.name,
        note: `${device.status.reachability} · ${device.spec.location}`,
        run: () => void navigate({ to: '/devices/$id', params: { id: device.metadata.name } }),
      })
    }
    for (const rollout of rollouts.data?.items.filter((r) => fits(r.metadata.name)).slice(0, FOUND) ?? []) {
      entries.push({
        id: rollout.metadata.uid,
        group: 'Rollouts',
        icon: 'rollout',
        title: rollout.metadata.name,
        note: rollout.status.summary.phase,
        run: () => void navigate({ to: '/rollouts/$id', params: { id: rollout.metadata.name } }),
      })
    }
    entries.push({
      id: 'filter',
      group: 'Search',
      icon: 'search',
      title: `Devices that match “${wanted}”`,
      run: () => void navigate({ to: '/devices', search: { q: wanted } }),
    })
  }
  const current = Math.max(
    0,
    entries.findIndex((entry) => entry.id === chosen),
  )

  const pick = (entry: Entry | undefined): void => {
    if (!entry) return
    dialog.current?.close()
    entry.run()
  }
  const move = (by: number): void => {
    setChosen(entries[(current + by + entries.length) % entries.length]?.id)
    setWaiting(false)
  }

  const pickFirst = useLatest(() => pick(entries[current]))
  useEffect(() => {
    if (waiting && answered) pickFirst.current()
  }, [waiting, answered, pickFirst])
  // What the page itself knows stands above whatever is still to come.
  const certain = answered || chosen !== undefined || OWN.includes(entries[current]?.group ?? '')

  return (
    <dialog
      ref={dialog}
      aria-label="Search and commands"
      onClose={onClose}
      className="panel rise mt-[12vh] w-[calc(100vw-24px)] max-w-xl overflow-hidden p-0 shadow-pop"
    >
      <div className="flex items-center gap-2 border-b border-line px-4">
        <Icon name="search" />
        <input
          // oxlint-disable-next-line jsx-a11y/no-autofocus -- opening the palette is asking to type
          autoFocus
          role="combobox"
          aria-expanded="true"
          aria-controls={id}
          aria-activedescendant={entries[current] ? `${id}-${current}` : undefined}
          aria-label="Search devices, rollouts and commands"
          placeholder="A device, a rollout, or what to do"
          value={text}
          onChange={(event) => {
            setText(event.target.value)
            setChosen(undefined)
            setWaiting(false)
          }}
          onKeyDown={(event) => {
            if (event.nativeEvent.isComposing) return
            if (event.key === 'ArrowDown') move(1)
            else if (event.key === 'ArrowUp') move(-1)
            else if (event.key !== 'Enter') return
            else if (certain) pick(entries[current])
            else setWaiting(true)
            event.preventDefault()
          }}
          data-quiet-focus
          className="h-11 flex-1 bg-transparent text-lg outline-none placeholder:text-muted"
        />
        <kbd className="kbd">Esc</kbd>
      </div>
      <div id={id} role="listbox" aria-label="Results" aria-busy={!answered} className="max-h-[50vh] overflow-y-auto py-1">
        {entries.map((entry, i) => (
          <div key={entry.id} role="presentation">
            {entries[i - 1]?.group !== entry.group && (
              <p role="presentation" className="px-4 pt-2 pb-1 text-xs text-muted">
                {entry.group}
              </p>
            )}
            {/* oxlint-disable-next-line jsx-a11y/click-events-have-key-events -- the field above has the keys */}
            <div
              id={`${id}-${i}`}
              role="option"
              tabIndex={-1}
              aria-selected={i === current}
              onClick={() => pick(entry)}
              onPointerMove={() => setChosen(entry.id)}
              ref={(element) => {
                if (i === current) element?.scrollIntoView({ block: 'nearest' })
              }}
              className={cx('flex h-8 cursor-pointer items-center gap-2.5 px-4', i === current && 'bg-accent-soft')}
            >
              <span className="text-muted">
                <Icon name={entry.icon} size={14} />
              </span>
              <span className="truncate">{entry.title}</span>
              {entry.note !== undefined && <span className="truncate text-sm text-muted">{entry.note}</span>}
              <span className="flex-1" />
              {entry.keys !== undefined && <Keys keys={entry.keys} />}
            </div>
          </div>
        ))}
        {entries.length === 0 && <p className="px-4 py-6 text-center text-muted">Nothing has that name.</p>}
      </div>
    </dialog>
  )
}
