/** `/alerts/messages`: what was told to whom, what waits, and the dead letters. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useSearch } from '@tanstack/react-router'

import { post, seg } from '~/api/client'
import { deliveriesQuery, type AlertDelivery } from '~/api/incidents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Mark } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Empty, Failure, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import type { Look } from '~/ui/state'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

import { AlertPlaces, UNKNOWN } from './places'
import { DELIVERY_STATES } from './states'

const LOOKS: Record<string, Look> = {
  queued: { shape: 'half', tone: 'info', means: 'It waits for its next attempt.' },
  delivered: { shape: 'check', tone: 'ok', means: 'The receiver has taken it.' },
  dead: { shape: 'cross', tone: 'bad', means: 'All attempts failed: a dead letter. It can be sent once more.' },
}
const TITLES = { queued: 'Waiting', delivered: 'Delivered', dead: 'Dead letters' }

export function AlertMessages() {
  const { state } = useSearch({ from: '/shell/alerts/messages' })
  const client = useQueryClient()
  const deliveries = useQuery(deliveriesQuery(state))
  const denied = useDenied('incident.write')
  const retry = useMutation({
    mutationFn: (delivery: AlertDelivery) => post<AlertDelivery>(`/alert-deliveries/${seg(delivery.uid)}:retry`, {}),
    onSuccess: () => {
      announce('It is sent once more')
      void client.invalidateQueries({ queryKey: keys.deliveries })
    },
  })
  return (
    <Page
      title="Messages about alerts"
      actions={
        <>
          <AlertPlaces at="messages" />
          <CopyButton small={false} label="Command" text={`farshore get alert-deliveries${state === undefined ? '' : ` --field-selector state=${state}`}`} />
        </>
      }
    >
      <nav aria-label="State" className="flex flex-wrap gap-1">
        {[undefined, ...DELIVERY_STATES].map((s) => (
          <Link
            key={s ?? 'all'}
            to="/alerts/messages"
            search={s === undefined ? {} : { state: s }}
            aria-current={s === state ? 'true' : undefined}
            className={cx('rounded px-2 py-1 hover:bg-hover', s === state ? 'bg-hover font-medium' : 'text-muted')}
          >
            {s === undefined ? 'All' : TITLES[s]}
          </Link>
        ))}
      </nav>
      {retry.isError && <Failure what="It was not sent once more" error={retry.error} />}
      <Resource
        query={deliveries}
        what="messages"
        empty={<Empty title={state === 'dead' ? 'No dead letters' : 'No messages'}>A message is made for each route that an alert is told to.</Empty>}
      >
        {(items) => (
          <Table
            label="Messages"
            items={items}
            id={(d) => d.uid}
            columns={[
              { title: 'State', cell: (d) => <Mark word={d.state} look={LOOKS[d.state] ?? UNKNOWN} /> },
              { title: 'Route', wide: true, cell: (d) => <span className="font-medium">{d.routeName}</span> },
              {
                title: 'What',
                cell: (d) => (
                  <span className="block min-w-44">
                    <span className="block font-medium sm:hidden">{d.routeName}</span>
                    {plural(d.alerts, 'alert')} <span className="text-muted [overflow-wrap:anywhere]">{d.groupKey}</span>
                    {d.lastError !== undefined && <span className={cx('block text-sm [overflow-wrap:anywhere]', d.state === 'dead' ? 'text-bad' : 'text-muted')}>{d.lastError}</span>}
                  </span>
                ),
              },
              { title: 'Attempts', wide: true, cell: (d) => count(d.attempts) },
              { title: 'Made', wide: true, cell: (d) => <Time at={d.createdAt} /> },
              { title: 'Next', wide: true, cell: (d) => (d.state === 'queued' ? <Time at={d.nextAt} /> : d.finishedAt !== undefined && <Time at={d.finishedAt} />) },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (d) => (
                  <Button
                    small
                    aria-label={`Send the message to ${d.routeName} once more`}
                    busy={retry.isPending && retry.variables.uid === d.uid}
                    disabledReason={denied ?? (d.state === 'dead' ? undefined : 'Only dead letters are sent once more.')}
                    onClick={() => retry.mutate(d)}
                  >
                    Send once more
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
    </Page>
  )
}
