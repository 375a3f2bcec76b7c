/** `/users`: who may act in this tenant. */
import { useQuery } from '@tanstack/react-query'

import { usersQuery } from '~/api/queries'
import { Command, CopyButton } from '~/ui/copy'
import { Empty, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

export function Users() {
  const users = useQuery(usersQuery)
  return (
    <Page title="Users" actions={<CopyButton small={false} label="Command" text="farshore get users" />}>
      <Resource
        query={users}
        what="users"
        empty={
          <Empty title="No users">
            <p>Users are written as objects and applied; each gets a one-time link to choose a password.</p>
            <Command text="farshore apply -f users.yaml" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Users"
            items={items}
            id={(u) => u.metadata.uid}
            columns={[
              { title: 'Email', cell: (u) => <span className="font-medium [overflow-wrap:anywhere]">{u.spec.email}</span> },
              { title: 'Role', cell: (u) => u.spec.role },
              { title: 'Name', wide: true, cell: (u) => u.metadata.name },
              { title: 'Last login', right: true, cell: (u) => <Time at={u.status.lastLoginAt} className="text-muted" /> },
            ]}
          />
        )}
      </Resource>
    </Page>
  )
}
