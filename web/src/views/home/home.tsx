/** `/`: what needs attention first, then what is in progress, then the fleet by location. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'

import { eventsQuery, summaryQuery } from '~/api/queries'
import { isFinal, rolloutsQuery } from '~/api/rollouts'
import { Button } from '~/ui/button'
import { Command } from '~/ui/copy'
import { Icon } from '~/ui/icon'
import { Glyph } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Empty, Failure, Loading, Page, Section, StaleNote } from '~/ui/panel'
import { Time } from '~/ui/time'

import { EventList } from '../device/events'
import { RolloutRows } from '../rollouts/rollouts'
import { AddDevice } from './add-device'
import { Attention, useAttention } from './attention'
import { Density } from './density'

const EVENTS = 12

export function Home() {
  const { add } = useSearch({ from: '/shell/' })
  const navigate = useNavigate({ from: '/' })
  const summary = useQuery(summaryQuery())
  const rollouts = useQuery(rolloutsQuery)
  const events = useQuery(eventsQuery({ limit: EVENTS }))
  const items = rollouts.data?.items ?? []
  const open = items.filter((r) => !isFinal(r.status.summary.phase))
  const attention = useAttention(summary.data, items)
  const ready = summary.isSuccess && !rollouts.isPending
  const total = summary.data?.total ?? 0

  return (
    <Page
      title="Home"
      beside={
        summary.data && total > 0 ? (
          <span className="text-muted">
            {plural(total, 'device')}, {count(summary.data.reachability.online ?? 0)} online
          </span>
        ) : undefined
      }
      actions={
        <Button kind="primary" onClick={() => void navigate({ search: { add: 'device' } })}>
          <Icon name="plus" size={14} />
          Add a device
        </Button>
      }
    >
      {add === 'device' && <AddDevice onClose={() => void navigate({ search: {} })} />}
      {summary.isError && !summary.data && (
        <Failure what="The fleet can’t be shown" error={summary.error} retry={() => void summary.refetch()} />
      )}
      {summary.isError && summary.data && <StaleNote error={summary.error} since={<Time at={summary.dataUpdatedAt} />} />}
      {ready && total === 0 ? (
        <Start onAdd={() => void navigate({ search: { add: 'device' } })} />
      ) : (
        !(summary.isError && !summary.data) && (
          <>
            <div className="grid items-start gap-4 xl:grid-cols-[3fr_2fr]">
            <div className="flex min-w-0 flex-col gap-4">
              <Section title="Needs attention" flush>
                {!ready ? (
                  <div className="p-4">
                    <Loading what="what needs attention" />
                  </div>
                ) : attention.length === 0 ? (
                  <p className="flex items-center gap-2 px-4 py-6">
                    <Glyph shape="check" tone="ok" size={14} />
                    <span>
                      Nothing needs you now. <span className="text-muted">{plural(total, 'device')} do what they should.</span>
                    </span>
                  </p>
                ) : (
                  <Attention items={attention} />
                )}
              </Section>
            <Section
              title="Rollouts in progress"
              flush
              actions={
                <Link to="/rollouts" className="link text-sm">
                  All rollouts
                </Link>
              }
            >
              {rollouts.isError && items.length === 0 ? (
                <div className="p-4">
                  <Failure what="The rollouts can’t be listed" error={rollouts.error} retry={() => void rollouts.refetch()} />
                </div>
              ) : rollouts.isPending ? (
                <div className="p-4">
                  <Loading what="rollouts" lines={2} />
                </div>
              ) : open.length === 0 ? (
                <p className="px-4 py-3 text-muted">
                  None.{' '}
                  <Link to="/rollouts/new" className="link">
                    Start one
                  </Link>
                </p>
              ) : (
                <RolloutRows rollouts={open} />
              )}
            </Section>
            <Section title="Fleet by location" flush>
              {summary.data ? (
                <Density locations={summary.data.byLocation} />
              ) : (
                <div className="p-4">
                  <Loading what="the fleet" lines={6} />
                </div>
              )}
            </Section>
            </div>
              <Section
                title="Recent events"
                flush
              >
                {events.isError ? (
                  <div className="p-4">
                    <Failure what="The events can’t be listed" error={events.error} retry={() => void events.refetch()} />
                  </div>
                ) : events.isPending ? (
                  <div className="p-4">
                    <Loading what="events" />
                  </div>
                ) : events.data.items.length === 0 ? (
                  <p className="px-4 py-3 text-muted">Nothing has happened yet.</p>
                ) : (
                  <EventList events={events.data.items} withSubject />
                )}
              </Section>
            </div>
          </>
        )
      )}
    </Page>
  )
}

function Start({ onAdd }: { onAdd: () => void }) {
  return (
    <div className="panel">
      <Empty title="Add your first device">
        <p>
          Make a claim token, type what it prints on the device, and see it here seconds later. It keeps running what you give it, with or
          without network.
        </p>
        <p className="text-center">
          <Button kind="primary" onClick={onAdd}>
            <Icon name="plus" size={14} />
            Add a device
          </Button>
        </p>
        <p>The same on the command line:</p>
        <Command text="farshore token create --channel prod --location store-1" />
      </Empty>
    </div>
  )
}
