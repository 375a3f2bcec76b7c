/** `/incidents`: what went wrong on devices, newest first. */
import { useQuery } from '@tanstack/react-query'
import { Link, useSearch } from '@tanstack/react-router'

import { incidentsQuery } from '~/api/incidents'
import { CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Empty, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'

import { IncidentTable } from './list'

const STATES = [
  { state: undefined, title: 'All' },
  { state: 'open', title: 'Open' },
  { state: 'resolved', title: 'Resolved' },
] as const

export function Incidents() {
  const { state } = useSearch({ from: '/shell/incidents' })
  const incidents = useQuery(incidentsQuery({ state }))
  return (
    <Page
      title="Incidents"
      actions={
        <>
          <nav aria-label="State" className="flex gap-1">
            {STATES.map((s) => (
              <Link
                key={s.title}
                to="/incidents"
                search={s.state === undefined ? {} : { state: s.state }}
                aria-current={s.state === state ? 'true' : undefined}
                className={cx('rounded px-2 py-1 hover:bg-hover', s.state === state ? 'bg-hover font-medium' : 'text-muted')}
              >
                {s.title}
              </Link>
            ))}
          </nav>
          <CopyButton small={false} label="Command" text="farshore get incidents" />
        </>
      }
    >
      <Resource
        query={incidents}
        what="incidents"
        empty={
          <Empty title={state === 'open' ? 'No open incidents' : 'No incidents'}>
            <p className="text-center">When an app fails on a device, what happened, what the device did about it and the evidence are kept here.</p>
          </Empty>
        }
      >
        {(items) => <IncidentTable items={items} />}
      </Resource>
    </Page>
  )
}
