/** `/rollouts`: one line each, with how far it is. What narrows the list stands in the address. */
import { useQuery } from '@tanstack/react-query'
import { Link, useNavigate, useSearch } from '@tanstack/react-router'

import { isFinal, rolloutsQuery } from '~/api/rollouts'
import type { Rollout } from '~/api/rollout-types'
import { useDenied } from '~/frame/me'
import { buttonClass, Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Icon } from '~/ui/icon'
import { Mark } from '~/ui/mark'
import { count, percent, plural } from '~/ui/number'
import { Empty, Failure, Loading, Page, StaleNote } from '~/ui/panel'
import { Time, useNow } from '~/ui/time'

import { needOf } from './attention'
import { CountsBar, countsText, total } from './counts-bar'
import { fitsFilters, type RolloutFilters, type Show } from './filters'
import { PHASES } from './look'

export function Rollouts() {
  const filters = useSearch({ from: '/shell/rollouts' })
  const rollouts = useQuery(rolloutsQuery)
  const denied = useDenied('rollout.write')
  const now = useNow()
  const all = rollouts.data?.items ?? []
  const items = all.filter((r) => fitsFilters(r, filters, now))
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
      {rollouts.isError && all.length === 0 ? (
        <Failure what="The rollouts can’t be listed" error={rollouts.error} retry={() => void rollouts.refetch()} />
      ) : rollouts.isPending ? (
        <div className="panel p-4">
          <Loading what="rollouts" lines={6} />
        </div>
      ) : all.length === 0 ? (
        <div className="panel">
          <Empty title="No rollouts yet">
            <p>A rollout moves one channel of one app to another release, wave by wave, and stops itself when too many devices fail.</p>
            <Command text="farshore rollout create --app edge-web --channel prod --to 1.1 --wave 5% --wave 25% --wave 100%" />
          </Empty>
        </div>
      ) : (
        <>
          {rollouts.isError && <StaleNote error={rollouts.error} since={<Time at={rollouts.dataUpdatedAt} />} />}
          <Filters filters={filters} all={all} now={now} />
          {items.length === 0 ? (
            <div className="panel">
              <Empty title="No rollout fits this filter">
                <p>{plural(all.length, 'rollout')} in all.</p>
              </Empty>
            </div>
          ) : (
            <>
              {filters.show !== 'over' && open.length > 0 && <Group title="In progress" rollouts={open} />}
              {over.length > 0 && <Group title="Over" rollouts={over} />}
            </>
          )}
        </>
      )}
    </Page>
  )
}

const SHOWN: readonly [Show | undefined, string][] = [
  [undefined, 'all'],
  ['attention', 'need attention'],
  ['open', 'in progress'],
  ['over', 'over'],
]

function Filters({ filters, all, now }: { filters: RolloutFilters; all: readonly Rollout[]; now: number }) {
  const navigate = useNavigate({ from: '/rollouts' })
  const change = (part: Partial<Record<keyof RolloutFilters, string | undefined>>): void => {
    const next = { ...filters, ...part }
    void navigate({ search: Object.fromEntries(Object.entries(next).filter(([, v]) => v !== undefined && v !== '')), replace: true })
  }
  const words = (of: (s: Rollout['status']['summary']) => string): string[] => [...new Set(all.map((r) => of(r.status.summary)))].toSorted()
  return (
    <div className="flex flex-wrap items-center gap-2">
      <input
        type="search"
        aria-label="Find a rollout by name"
        placeholder="Name or version"
        className="field w-52!"
        value={filters.q ?? ''}
        onChange={(event) => change({ q: event.target.value })}
      />
      {(['app', 'channel'] as const).map((key) => (
        <select key={key} aria-label={`Filter by ${key}`} className="field w-auto!" value={filters[key] ?? ''} onChange={(event) => change({ [key]: event.target.value })}>
          <option value="">every {key}</option>
          {words((s) => s[key]).map((word) => (
            <option key={word}>{word}</option>
          ))}
        </select>
      ))}
      <div role="group" aria-label="Show" className="flex flex-wrap gap-1">
        {SHOWN.map(([show, title]) => {
          const n = all.filter((r) => fitsFilters(r, { ...filters, show } as RolloutFilters, now)).length
          const on = filters.show === show
          return (
            <button
              key={title}
              type="button"
              aria-pressed={on}
              onClick={() => change({ show })}
              className={cx('h-8 rounded border px-2.5 transition-colors', on ? 'border-accent bg-accent-soft' : 'border-transparent hover:bg-hover')}
            >
              {title} <span className="text-muted">{count(n)}</span>
            </button>
          )
        })}
      </div>
    </div>
  )
}

function Group({ title, rollouts }: { title: string; rollouts: Rollout[] }) {
  return (
    <section className="panel min-w-0" aria-label={title}>
      <h2 className="border-b border-line px-4 py-2.5 font-semibold">
        {title} <span className="font-normal text-muted">{count(rollouts.length)}</span>
      </h2>
      <RolloutRows rollouts={rollouts} />
    </section>
  )
}

/** `62 % done`, or how far the way back is; nothing to say of a rollout that is over or has not begun. */
function done({ phase, counts }: Rollout['status']['summary']): string {
  const share = (part: number, of: number, word: string): string => (of === 0 ? '' : `${percent(Math.floor((part / of) * 100) / 100)} ${word}`)
  if (phase === 'rolling-back') return share(counts.rolledBack, counts.rolledBack + counts.rollingBack, 'back')
  return isFinal(phase) ? '' : share(counts.ok, total(counts) - counts.excluded, 'done')
}

export function RolloutRows({ rollouts }: { rollouts: Rollout[] }) {
  const now = useNow()
  return (
    <ul className="@container divide-y divide-line">
      {rollouts.map((rollout) => {
        const s = rollout.status.summary
        const need = needOf(s, now)
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
                {need !== undefined && <span className={cx('block truncate text-sm', need.tone === 'bad' ? 'text-bad' : need.tone === 'warn' ? 'text-warn' : 'text-muted')}>{need.what}</span>}
              </span>
              <Mark word={s.phase} look={PHASES[s.phase] ?? PHASES.unknown} />
              <span className="min-w-0 @max-3xl:order-last @max-3xl:col-span-2">
                <CountsBar counts={s.counts} className="h-2" />
                <span className="mt-1 flex justify-between gap-3 text-sm text-muted">
                  <span className="truncate">{s.phase === 'pending' ? 'no device touched' : countsText(s.counts)}</span>
                  <span className="shrink-0">{done(s)}</span>
                </span>
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
