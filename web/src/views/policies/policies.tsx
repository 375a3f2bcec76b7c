/** `/policies`: what devices obey, by name. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { policiesQuery, type Policy } from '~/api/policies'
import { buttonClass } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { count } from '~/ui/number'
import { Empty, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table, type Column } from '~/ui/table'
import { Time } from '~/ui/time'

const COLUMNS: Column<Policy>[] = [
  {
    title: 'Policy',
    cell: (p) => (
      <>
        <Link to="/policies/$id" params={{ id: p.metadata.name }} className="font-medium hover:text-accent">
          {p.metadata.name}
        </Link>{' '}
        <span className="text-muted">{p.spec.description}</span>
      </>
    ),
  },
  { title: 'Applies to', cell: (p) => <Selector text={p.spec.selector ?? ''} /> },
  { title: 'Priority', cell: (p) => p.spec.priority ?? 0, right: true },
  { title: 'Devices', cell: (p) => count(p.status.devices), right: true },
  { title: 'Version', cell: (p) => p.metadata.resourceVersion, right: true, wide: true },
  { title: 'Created', cell: (p) => <Time at={p.metadata.createdAt} />, right: true, wide: true },
]

export function Selector({ text }: { text: string }) {
  if (text === '') return <span className="text-muted">every device</span>
  return (
    <Link to="/devices" search={{ labelSelector: text }} className="font-mono text-sm hover:text-accent">
      {text}
    </Link>
  )
}

export function Policies() {
  const policies = useQuery(policiesQuery)
  return (
    <Page
      title="Policies"
      actions={
        <>
          <CopyButton small={false} label="Command" text="farshore get policies" />
          <Link to="/policies/$id" params={{ id: 'new' }} className={buttonClass('primary')}>
            New policy
          </Link>
        </>
      }
    >
      <Resource
        query={policies}
        what="policies"
        empty={
          <Empty title="No policies yet">
            <p>
              A policy says how devices heal (restarts, then an earlier release), what apps may use, what may be done from afar and how often devices
              report. Without one, releases and the agent have their own defaults.
            </p>
            <Command text="farshore apply -f policy.yaml" />
          </Empty>
        }
      >
        {(items) => <Table label="Policies" columns={COLUMNS} items={items} id={(p) => p.metadata.uid} />}
      </Resource>
    </Page>
  )
}
