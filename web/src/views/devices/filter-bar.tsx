/** The line in which one types a filter, and the chips of those that hold. */
import { useRef, useState } from 'react'

import type { DeviceSummary } from '~/api/types'
import { useKeys } from '~/frame/keys'
import { announce } from '~/ui/announce'
import { buttonClass } from '~/ui/button'
import { FilterChip } from '~/ui/chip'
import { CopyButton } from '~/ui/copy'
import { Icon } from '~/ui/icon'
import { Menu } from '~/ui/menu'
import { count } from '~/ui/number'

import { addText, chips, command, narrowing, toggle, type Filters } from './filters'

interface Props {
  filters: Filters
  summary: DeviceSummary | undefined
  onChange: (filters: Filters) => void
}

export function FilterBar({ filters, summary, onChange }: Props) {
  const [text, setText] = useState('')
  const field = useRef<HTMLInputElement>(null)
  const shown = chips(filters)
  useKeys('Devices: filter', [{ keys: '/', does: 'Filter devices', run: () => field.current?.focus() }])

  const apply = (next: Filters): void => {
    onChange(next)
    announce('Filter changed')
  }

  return (
    <div className="flex flex-wrap items-center gap-2">
      <form
        role="search"
        className="relative min-w-52 flex-1 sm:max-w-md"
        onSubmit={(event) => {
          event.preventDefault()
          if (text.trim() === '') return
          apply(addText(filters, text))
          setText('')
        }}
      >
        <span className="pointer-events-none absolute top-2 left-2.5 text-muted">
          <Icon name="search" />
        </span>
        <input
          ref={field}
          type="search"
          aria-label="Filter devices by name, state or label"
          aria-describedby="filter-help"
          placeholder="name, store=12, health=failing"
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={(event) => {
            const last = shown.at(-1)
            if (event.key === 'Backspace' && text === '' && last) apply(last.without)
          }}
          className="field pr-8 pl-8"
          spellCheck={false}
          autoCapitalize="off"
        />
        <span className="kbd pointer-events-none absolute top-[7px] right-2 max-sm:hidden">/</span>
        <span id="filter-help" className="sr-only">
          Press Enter to add what you typed. Backspace in the empty field takes the last filter away.
        </span>
      </form>
      <Pick title="Location" field="location" filters={filters} onChange={apply} values={summary?.byLocation.map((l) => [l.location, l.total]) ?? []} />
      <Pick title="Channel" field="channel" filters={filters} onChange={apply} values={summary?.channels.map((c) => [c, undefined]) ?? []} />
      {shown.map((chip) => (
        <FilterChip key={chip.text} text={chip.text} onRemove={() => apply(chip.without)} />
      ))}
      {shown.length > 1 && (
        <button
          type="button"
          className={buttonClass('ghost', true)}
          onClick={() => apply(filters.sort === undefined ? {} : { sort: filters.sort })}
        >
          Clear all
        </button>
      )}
      <span className="flex-1 max-sm:hidden" />
      <span className="max-sm:hidden">
        <CopyButton text={() => command(filters)} label="Copy as command" />
      </span>
    </div>
  )
}

function Pick({
  title,
  field,
  values,
  filters,
  onChange,
}: {
  title: string
  field: 'location' | 'channel'
  values: [string, number | undefined][]
  filters: Filters
  onChange: (filters: Filters) => void
}) {
  const items = values.filter(([value]) => value !== '')
  if (items.length === 0 && narrowing(filters)[field] === undefined) return null
  return (
    <Menu
      label={`Filter by ${field}`}
      align="left"
      className={buttonClass('plain')}
      button={
        <>
          {title}
          <Icon name="down" size={12} />
        </>
      }
      items={items.map(([value, n]) => ({
        label: (
          <>
            <span className="flex-1">{value}</span>
            {n !== undefined && <span className="text-sm text-muted">{count(n)}</span>}
          </>
        ),
        chosen: filters[field] === value,
        onPick: () => onChange(toggle(filters, field, value)),
      }))}
    />
  )
}
