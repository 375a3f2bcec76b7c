/** `/devices`: the fleet as a list. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import { useState } from 'react'

import { get } from '~/api/client'
import { summaryQuery } from '~/api/queries'
import type { Device, List } from '~/api/types'
import { buttonClass } from '~/ui/button'
import { Command } from '~/ui/copy'
import { Icon } from '~/ui/icon'
import { count } from '~/ui/number'
import { Empty, Failure, Page, StaleNote } from '~/ui/panel'
import { Time } from '~/ui/time'

import { BulkBar, OperateMenu } from './bulk'
import { Facets } from './facets'
import { FilterBar } from './filter-bar'
import { chips, narrowing, parseFilters, toQuery, withoutStates, type Filters } from './filters'
import { keepNeighbours } from './neighbours'
import { useDevicePages } from './pages'
import { DeviceTable } from './table'

const GATHER_PAGE = 1000
const NO_DEVICES: ReadonlyMap<string, Device> = new Map()

export function Devices() {
  const filters = parseFilters(useSearch({ from: '/shell/devices' }) as Record<string, unknown>)
  const navigate = useNavigate({ from: '/devices' })
  const query = toQuery(filters)
  const pages = useDevicePages(query)
  const summary = useQuery(summaryQuery(toQuery(withoutStates(filters))))
  // What is selected belongs to a filter: another filter begins with nothing selected.
  const scope = JSON.stringify(narrowing(filters))
  const [picked, setPicked] = useState({ scope, devices: NO_DEVICES })
  const selection = {
    devices: picked.scope === scope ? picked.devices : NO_DEVICES,
    set: (devices: ReadonlyMap<string, Device>) => setPicked({ scope, devices }),
  }

  const change = (next: Filters): void => void navigate({ search: next })
  const selectAll = async (): Promise<void> => {
    const all = new Map<string, Device>()
    let cursor: string | undefined
    do {
      const page: List<Device> = await get('/devices', { ...query, limit: GATHER_PAGE, continue: cursor })
      for (const device of page.items) all.set(device.metadata.uid, device)
      cursor = page.metadata.continue
    } while (cursor !== undefined)
    selection.set(all)
  }

  const narrowed = chips(filters).length > 0
  const nothing = !pages.isLoading && pages.error === undefined && pages.rows.length === 0

  return (
    <Page
      fill
      title="Devices"
      beside={
        <span className="text-muted">
          {pages.isLoading ? '' : `${count(pages.total)}${narrowed ? ' match' : ''}`}
        </span>
      }
      actions={
        <>
          <OperateMenu key={filters.labelSelector ?? ''} selector={filters.labelSelector ?? ''} />
          <Link to="/" search={{ add: 'device' }} className={buttonClass('primary')}>
            <Icon name="plus" size={14} />
            Add a device
          </Link>
        </>
      }
    >
      <FilterBar filters={filters} summary={summary.data} onChange={change} />
      <Facets summary={summary.data} filters={filters} onChange={change} />
      <BulkBar selection={selection} total={pages.total} selectAll={selectAll} />
      {pages.error !== undefined && pages.rows.length === 0 ? (
        <Failure what="The devices can’t be listed" error={pages.error} retry={pages.retry} />
      ) : nothing ? (
        <NoDevices narrowed={narrowed} clear={() => change({})} />
      ) : (
        <>
          {pages.error !== undefined && <StaleNote error={pages.error} since={<Time at={pages.updatedAt} />} />}
          <DeviceTable
            key={scope}
            pages={pages}
            selection={selection}
            sort={filters.sort}
            onSort={(sort) => change(sort === undefined ? narrowing(filters) : { ...filters, sort })}
            onOpen={() =>
              keepNeighbours(
                pages.rows.map((d) => d.metadata.name),
                filters as Record<string, string>,
              )
            }
          />
        </>
      )}
    </Page>
  )
}

function NoDevices({ narrowed, clear }: { narrowed: boolean; clear: () => void }) {
  if (narrowed) {
    return (
      <Empty title="No device matches">
        <p className="text-center">
          <button type="button" className={buttonClass('plain')} onClick={clear}>
            Clear the filters
          </button>
        </p>
      </Empty>
    )
  }
  return (
    <Empty title="No devices yet">
      <p>
        A device is one machine that Farshore looks after. Make a claim token here with{' '}
        <Link to="/" search={{ add: 'device' }} className="link">
          Add a device
        </Link>
        , or on the command line, then type what it prints on the device. It is on this list seconds later.
      </p>
      <Command text="farshore token create --channel prod --location store-1" />
    </Empty>
  )
}
