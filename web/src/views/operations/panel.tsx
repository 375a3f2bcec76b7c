/** What a device was asked, how that goes, and what it says meanwhile. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect, useRef, useState } from 'react'

import { cancelOperation, followOutput, isOver, operationsQuery, type Operation } from '~/api/operations'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Mark } from '~/ui/mark'
import { bytes, plural } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import { Time } from '~/ui/time'

import { OPERATION_STATES, whatOf } from './look'

export function OperationsPanel({ device }: { device: string }) {
  const operations = useQuery(operationsQuery(device))
  const [opened, setOpened] = useState<string | undefined>()
  const items = operations.data?.items ?? []
  if (operations.isError) return <Failure what="The operations can’t be listed" error={operations.error} retry={() => void operations.refetch()} />
  if (items.length === 0) return null
  const open = items.filter((o) => !isOver(o.status.state)).length
  return (
    <Section title="Operations" flush actions={<span className="text-sm text-muted">{open > 0 ? `${plural(open, 'operation')} under way` : 'none under way'}</span>}>
      <ul className="divide-y divide-line">
        {items.map((operation) => (
          <Row
            key={operation.metadata.uid}
            operation={operation}
            opened={opened === operation.metadata.uid}
            toggle={() => setOpened(opened === operation.metadata.uid ? undefined : operation.metadata.uid)}
          />
        ))}
      </ul>
    </Section>
  )
}

function Row({ operation, opened, toggle }: { operation: Operation; opened: boolean; toggle: () => void }) {
  const client = useQueryClient()
  const denied = useDenied('device.operate')
  const { spec, status, metadata } = operation
  const over = isOver(status.state)
  const cancel = useMutation({
    mutationFn: () => cancelOperation(operation),
    onSuccess: () => {
      announce(`${spec.kind} is cancelled`)
      void client.invalidateQueries({ queryKey: keys.device })
    },
  })
  const hasOutput = status.outputBytes > 0 || status.state === 'running'
  const says = over ? status.message : status.waits
  return (
    <li className="px-4 py-2">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-1">
        <Mark word={status.state} look={OPERATION_STATES[status.state] ?? OPERATION_STATES.unknown} focusable />
        <span className="min-w-0 font-medium [overflow-wrap:anywhere]">{whatOf(operation)}</span>
        <span className="min-w-0 flex-1 text-muted [overflow-wrap:anywhere]">
          {says}
          {status.exitCode !== undefined && status.exitCode !== 0 && ` (exit code ${status.exitCode})`}
        </span>
        <span className="text-sm text-muted">
          {spec.requestedBy}, <Time at={metadata.createdAt} />
        </span>
        {!over && status.deadlineAt !== undefined && (
          <span className="text-sm text-muted">
            ends <Time at={status.deadlineAt} />
          </span>
        )}
        <span className="flex gap-2">
          {hasOutput && (
            <Button small aria-expanded={opened} disabledReason={denied} onClick={toggle}>
              {opened ? 'Hide output' : 'Output'}
            </Button>
          )}
          {!over && (
            <Button
              small
              kind="danger"
              busy={cancel.isPending}
              disabledReason={denied ?? (status.cancelRequestedAt === undefined ? undefined : 'The device is told already.')}
              onClick={() => cancel.mutate()}
            >
              Cancel
            </Button>
          )}
        </span>
      </div>
      {spec.reason !== '' && <p className="text-sm text-muted [overflow-wrap:anywhere]">{spec.reason}</p>}
      {cancel.isError && <Failure what="It was not cancelled" error={cancel.error} />}
      {opened && <Output key={metadata.uid} operation={operation} />}
    </li>
  )
}

/** At most this much is drawn; the rest is a download away. */
const DRAWN = 200_000

function Output({ operation }: { operation: Operation }) {
  const client = useQueryClient()
  const [text, setText] = useState('')
  const [over, setOver] = useState(false)
  const box = useRef<HTMLPreElement>(null)
  const { uid } = operation.metadata
  useEffect(
    () =>
      followOutput(
        uid,
        (more) => {
          const pre = box.current
          // Follows the end, unless somebody reads further up.
          const atEnd = pre !== null && pre.scrollHeight - pre.scrollTop - pre.clientHeight < 80
          setText((had) => had + more)
          if (atEnd) requestAnimationFrame(() => pre.scrollTo(0, pre.scrollHeight))
        },
        () => {
          setOver(true)
          void client.invalidateQueries({ queryKey: keys.device })
        },
      ),
    [uid, client],
  )
  const { outputBytes, outputTotal } = operation.status
  return (
    <div className="mt-2">
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- a scrolling region must be reachable by keyboard */}
      <pre ref={box} tabIndex={0} role="log" aria-label="Output" className="max-h-96 overflow-auto rounded border border-line bg-sunken px-3 py-2 font-mono text-sm whitespace-pre-wrap [overflow-wrap:anywhere]">
        {text.slice(-DRAWN) || (over ? 'It said nothing.' : 'Nothing yet…')}
      </pre>
      <p className="mt-1 flex flex-wrap items-center gap-3 text-sm text-muted">
        {over ? 'Ended.' : 'Live.'}
        {outputTotal > outputBytes && <span className="text-warn">Only {bytes(outputBytes)} of {bytes(outputTotal)} are kept.</span>}
        {text.length > DRAWN && <span>The last {bytes(DRAWN)} are shown.</span>}
        <CopyButton label="Copy output" text={() => text} />
      </p>
    </div>
  )
}
