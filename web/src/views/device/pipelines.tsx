/** What a device's gateway processes its readings by: what it is to run, what it runs, and what each step did. Nothing for a device without pipelines. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { pipelinesQuery, type DevicePipelines as Pipelines, type ProcessingReport } from '~/api/pipelines'
import { CopyButton } from '~/ui/copy'
import { Glyph } from '~/ui/mark'
import { count, plural } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import type { Shape, Tone } from '~/ui/state'
import { Time } from '~/ui/time'

export function DevicePipelines({ device }: { device: string }) {
  const pipelines = useQuery(pipelinesQuery(device))
  if (pipelines.isError && pipelines.data === undefined) {
    return (
      <Section title="Pipelines">
        <Failure what="The pipelines can’t be shown" error={pipelines.error} retry={() => void pipelines.refetch()} />
      </Section>
    )
  }
  const data = pipelines.data
  if (data === undefined || (data.state === 'none' && data.running === undefined)) return null
  const { running, wanted } = data
  return (
    <Section
      title="Pipelines"
      flush
      actions={
        <>
          <span className="text-sm text-muted">{data.reportedAt === undefined ? 'never heard of its gateway' : <>told <Time at={data.reportedAt} /></>}</span>
          <CopyButton label="Command" text={`farshore pipeline status ${data.deviceName}`} />
        </>
      }
    >
      <div className="flex flex-col gap-2 p-4">
        <Standing of={data} />
        {running?.refused && (
          <p role="status" className="text-bad [overflow-wrap:anywhere]">
            Not taken: {running.refused.why}
            {running.source !== undefined && <span className="text-muted"> What ran before goes on.</span>}
          </p>
        )}
        {running?.trouble !== undefined && <p className="text-warn [overflow-wrap:anywhere]">{running.trouble}</p>}
        {running?.source !== undefined && <Figures of={running} />}
      </div>
      {running !== undefined && running.pipelines.length > 0 && <Steps of={running} />}
      {wanted && (
        <details className="border-t border-line px-4 py-2">
          <summary className="cursor-pointer font-medium">What it is to run</summary>
          {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- it scrolls */}
          <pre tabIndex={0} role="region" aria-label="Pipelines as YAML" className="mt-2 max-h-96 overflow-auto rounded border border-line bg-sunken p-2 font-mono text-sm">
            {wanted.text}
          </pre>
        </details>
      )}
    </Section>
  )
}

const STATES: Record<Pipelines['state'], [Shape, Tone]> = {
  none: ['ring', 'quiet'],
  own: ['full', 'ok'],
  running: ['full', 'ok'],
  pending: ['half', 'warn'],
  refused: ['cross', 'bad'],
  unknown: ['question', 'quiet'],
}

function Standing({ of }: { of: Pipelines }) {
  const [shape, tone] = STATES[of.state] ?? STATES.unknown
  const config = of.wanted && (
    <>
      <Link to="/gateways" className="font-medium hover:text-accent">
        {of.wanted.config}
      </Link>
      <span className="text-muted">
        {' '}
        (layer {of.wanted.layer}, version {of.wanted.resourceVersion})
      </span>
    </>
  )
  return (
    <p className="flex flex-wrap items-baseline gap-x-1.5">
      <span className="self-center">
        <Glyph shape={shape} tone={tone} size={10} />
      </span>
      <span>
        {of.state === 'running' && <>Runs {config}</>}
        {of.state === 'refused' && <>Does not take {config}</>}
        {of.state === 'pending' && (config === undefined ? <>Has not heard yet that no pipelines are set any more</> : <>Has not told yet that it has {config}</>)}
        {of.state === 'own' && <>Runs {SOURCES[of.running?.source ?? ''] ?? 'what it has of its own'}</>}
        {of.state === 'none' && <>No pipelines are set for it</>}
        {of.state === 'unknown' && <>Stands as this page can’t tell</>}
      </span>
    </p>
  )
}

const SOURCES: Record<string, string> = {
  file: 'the file of the device itself',
  aggregates: 'aggregates of all series',
  program: 'what its program does itself',
}

function Figures({ of }: { of: ProcessingReport }) {
  const facts: [string, string, boolean?][] = [
    ['Processed', count(of.points)],
    ['Waiting', count(of.backlog)],
    ['Series', count(of.series)],
    ['Too late', count(of.late), of.late > 0],
    ['Dropped', count(of.dropped), of.dropped > 0],
    ['Alerts', `${count(of.alertsRaised)} raised, ${count(of.alertsCleared)} ended`],
    ['Messages', count(of.messages)],
    ['Calls', of.callsFailed > 0 ? `${count(of.calls)}, ${count(of.callsFailed)} failed` : count(of.calls), of.callsFailed > 0],
    ['Written', of.lost > 0 ? `${count(of.written)}, ${count(of.lost)} lost` : count(of.written), of.lost > 0],
  ]
  return (
    <dl className="flex flex-wrap gap-x-8 gap-y-2">
      {facts.map(([name, value, warn]) => (
        <div key={name}>
          <dt className="text-sm text-muted">{name}</dt>
          <dd className={warn ? 'text-warn' : undefined}>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

function Steps({ of }: { of: ProcessingReport }) {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard
    <div className="overflow-x-auto border-t border-line" tabIndex={0} role="region" aria-label="Steps of the pipelines">
      <table className="w-full">
        <thead>
          <tr className="border-b border-line text-left text-sm text-muted">
            {['Pipeline', 'Step', 'In', 'Out', 'Late', 'Dropped', 'Raised', 'Open windows'].map((title, index) => (
              <th key={title} className={index < 2 ? 'px-4 py-1.5 font-normal' : 'px-4 py-1.5 text-right font-normal whitespace-nowrap'}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {of.pipelines.flatMap((pipeline) =>
            pipeline.steps.map((step, index) => (
              // oxlint-disable-next-line react/no-array-index-key -- steps have no other name
              <tr key={`${pipeline.name} ${index}`}>
                <td className="px-4 py-1.5">
                  {index === 0 && (
                    <>
                      <span className="font-medium">{pipeline.name}</span>
                      {pipeline.activeAlerts > 0 && <span className="text-bad"> {plural(pipeline.activeAlerts, 'alert')} raised now</span>}
                    </>
                  )}
                </td>
                <td className="px-4 py-1.5">{step.kind}</td>
                {[step.taken, step.passed, step.late, step.dropped, step.raised, step.openWindows].map((number, column) => (
                  // oxlint-disable-next-line react/no-array-index-key -- a column is its place
                  <td key={column} className={number > 0 && (column === 2 || column === 3) ? 'px-4 py-1.5 text-right text-warn' : 'px-4 py-1.5 text-right'}>
                    {number === 0 ? <span className="text-muted">0</span> : count(number)}
                  </td>
                ))}
              </tr>
            )),
          )}
        </tbody>
      </table>
      {(of.stepsLeftOut ?? 0) > 0 && <p className="px-4 py-2 text-sm text-muted">{plural(of.stepsLeftOut ?? 0, 'more step')}</p>}
    </div>
  )
}
