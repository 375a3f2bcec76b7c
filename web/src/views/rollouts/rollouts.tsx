/** `/rollouts`: one line each, with how far it is. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { isFinal, rolloutsQuery } from '~/api/rollouts'
import type { Rollout } from '~/api/rollout-types'
import { useDenied } from '~/frame/me'
import { buttonClass, Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'
import { Mark } from '~/ui/mark'
import { count, percent } from '~/ui/number'
import { Empty, Failure, Loading, Page, StaleNote } from '~/ui/panel'
import { Time } from '~/ui/time'

import { CountsBar, countsText } from './counts-bar'
import { PHASES } from './look'

export function Rollouts() {
  const rollouts = useQuery(rolloutsQuery)
  const denied = useDenied('rollout.write')
  const items = rollouts.data?.items ?? []
  const open = items.filter((r) => !isFinal(r.status.summary.phase))
  const over = items.filter((r) => isFinal(r.status.summary.phase))
  return (
    <Page
      title="Rollouts"
      actions={
        <>
          <CopyButton small={false} label="Command" text="farshore get rollouts" />
          {denied === undefined ? (
            <Link to="/rollouts/new" className={buttonClass('primary')}>
              <Icon name="plus" size={14} />
              New rollout
            </Link>
          ) : (
            <Button kind="primary" disabledReason={denied}>
              New rollout
            </Button>
          )}
        </>
      }
    >
      {rollouts.isError && items.length === 0 ? (
        <Failure what="The rollouts can’t be listed" error={rollouts.error} retry={() => void rollouts.refetch()} />
      ) : rollouts.isPending ? (
        <div className="panel p-4">
          <Loading what="rollouts" lines={6} />
        </div>
      ) : items.length === 0 ? (
        <div className="panel">
          <Empty title="No rollouts yet">
            <p>A rollout moves one channel of one app to another release, wave by wave, and stops itself when too many devices fail.</p>
            <Command text="farshore rollout start edge-web@1.1 --channel prod --waves 5,25,100" />
          </Empty>
        </div>
      ) : (
        <>
          {rollouts.isError && <StaleNote error={rollouts.error} since={<Time at={rollouts.dataUpdatedAt} />} />}
          <Group title="In progress" rollouts={open} none="No rollout is in progress." />
          {over.length > 0 && <Group title="Over" rollouts={over} none="" />}
        </>
      )}
    </Page>
  )
}

function Group({ title, rollouts, none }: { title: string; rollouts: Rollout[]; none: string }) {
  return (
    <section className="panel min-w-0" aria-label={title}>
      <h2 className="border-b border-line px-4 py-2.5 font-semibold">
        {title} <span className="font-normal text-muted">{count(rollouts.length)}</span>
      </h2>
      {rollouts.length === 0 ? <p className="px-4 py-3 text-muted">{none}</p> : <RolloutRows rollouts={rollouts} />}
    </section>
  )
}

export function RolloutRows({ rollouts }: { rollouts: Rollout[] }) {
  return (
    <ul className="@container divide-y divide-line">
      {rollouts.map((rollout) => {
        const s = rollout.status.summary
        const over = s.failureRatio !== undefined && s.failureRatio >= s.threshold
        return (
          <li key={rollout.metadata.uid}>
            <Link
              to="/rollouts/$id"
              params={{ id: rollout.metadata.name }}
              className="grid items-center gap-x-5 gap-y-1 px-4 py-2.5 hover:bg-hover grid-cols-[minmax(0,1fr)_auto] @3xl:grid-cols-[minmax(150px,1.2fr)_110px_minmax(150px,2fr)_180px]"
            >
              <span className="min-w-0">
                <span className="block truncate font-medium">{rollout.metadata.name}</span>
                <span className="block truncate text-sm text-muted">
                  {s.app} {s.from ? `${s.from.version} → ` : ''}
                  {s.to.version} in {s.channel}
                </span>
              </span>
              <Mark word={s.phase} look={PHASES[s.phase] ?? PHASES.unknown} />
              <span className="min-w-0 @max-3xl:order-last @max-3xl:col-span-2">
                <CountsBar counts={s.counts} className="h-2" />
                <span className="mt-1 block truncate text-sm text-muted">{countsText(s.counts)}</span>
              </span>
              <span className="text-sm @max-3xl:col-span-2 @max-3xl:flex @max-3xl:gap-2 @3xl:text-right">
                <span className="block">
                  {s.wave === 0 ? 'not started' : `wave ${s.wave} of ${s.waves.length}`}
                  {s.failureRatio !== undefined && (
                    <span className={cx(over ? 'text-bad' : 'text-muted')}> · {percent(s.failureRatio)} failed</span>
                  )}
                </span>
                <Time at={s.finishedAt ?? s.phaseSince} className="text-muted" />
              </span>
            </Link>
          </li>
        )
      })}
    </ul>
  )
}
