/** Asks devices for something: first what it would do to which of them, then exactly that. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, keyring } from '~/api/client'
import { operate, preview, type Operate } from '~/api/operations'
import { keys } from '~/api/queries'
import type { Device } from '~/api/types'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { plural } from '~/ui/number'
import { Failure } from '~/ui/panel'

import type { VerbLook } from './look'

const FEW = 6

/** The words of a line; quotes keep spaces together. */
const words = (line: string): string[] => (line.match(/"[^"]*"|\S+/g) ?? []).map((word) => word.replace(/^"(.*)"$/, '$1'))

interface Props {
  look: VerbLook
  devices: Device[]
  onClose: () => void
  onDone?: () => void
}

export function AskDialog({ look, devices, onClose, onDone }: Props) {
  const client = useQueryClient()
  const apps = [...new Set(devices.flatMap((d) => d.status.apps.map((a) => a.app)))].toSorted()
  const [app, setApp] = useState(apps[0] ?? '')
  const [runbook, setRunbook] = useState('')
  const [given, setGiven] = useState('')
  const [channel, setChannel] = useState('')
  const [reason, setReason] = useState('')
  const [keyFor] = useState(keyring)
  const what = devices.length === 1 && devices[0] ? devices[0].metadata.name : plural(devices.length, 'device')

  const body: Operate = {
    verb: look.verb,
    devices: devices.map((d) => d.metadata.uid),
    ask: {
      reason,
      ...(look.needs === 'app' ? { app } : {}),
      ...(look.needs === 'runbook' ? { arguments: { runbook, arguments: words(given) } } : {}),
    },
    ...(look.needs === 'channel' ? { channel } : {}),
  }
  const look1 = useMutation({ mutationFn: () => preview(body) })
  const run = useMutation({
    mutationFn: (token: string) => operate(body, token, keyFor([body, token])),
    onSuccess: (plan) => {
      announce(`${look.title}: ${plural(plan.accepted, 'device')}`)
      void client.invalidateQueries({ queryKey: keys.device })
      void client.invalidateQueries({ queryKey: keys.devicePages })
      void client.invalidateQueries({ queryKey: keys.summary })
      onDone?.()
      onClose()
    },
    onError: (error) => {
      // The devices have changed since: what was shown is not what would be done.
      if (error instanceof ApiError && error.status === 409) look1.mutate()
    },
  })
  const plan = look1.data
  const changed = (set: (text: string) => void) => (text: string) => {
    set(text)
    look1.reset()
    run.reset()
  }
  const missing =
    (look.needs === 'app' && app === '' && 'Choose an app.') ||
    (look.needs === 'runbook' && runbook.trim() === '' && 'Name a runbook.') ||
    (look.needs === 'channel' && channel.trim() === '' && 'Name a channel.') ||
    undefined
  const wrong = look1.error instanceof ApiError ? look1.error : undefined
  const refused = plan?.devices.filter((d) => d.refused !== undefined) ?? []
  return (
    <Dialog
      title={`${look.title}: ${what}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          {plan === undefined ? (
            <Button kind="primary" busy={look1.isPending} disabledReason={missing || undefined} onClick={() => look1.mutate()}>
              See what it does…
            </Button>
          ) : (
            <Button
              kind={look.danger ? 'danger' : 'primary'}
              busy={run.isPending}
              disabledReason={plan.accepted === 0 ? 'Every device is refused.' : undefined}
              onClick={() => run.mutate(plan.preview)}
            >
              {look.title} on {plural(plan.accepted, 'device')}
            </Button>
          )}
        </>
      }
    >
      <p>{look.says}</p>
      {look.needs === 'app' && (
        <Field label="App" className="mt-4" error={wrong?.field('app')}>
          {(ids) => (
            <select {...ids} className="field" value={app} onChange={(event) => changed(setApp)(event.target.value)}>
              {apps.length === 0 && <option value="">No app runs there</option>}
              {apps.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          )}
        </Field>
      )}
      {look.needs === 'runbook' && (
        <>
          <Field label="Runbook" className="mt-4" help="A name from the policy of these devices." error={wrong?.field('runbook')}>
            {(ids) => <input {...ids} className="field" value={runbook} onChange={(event) => changed(setRunbook)(event.target.value.trim())} />}
          </Field>
          <Field label="Arguments" className="mt-3" help="As far as the runbook takes any; quotes keep spaces together." error={wrong?.field('arguments')}>
            {(ids) => <input {...ids} className="field font-mono" value={given} onChange={(event) => changed(setGiven)(event.target.value)} />}
          </Field>
        </>
      )}
      {look.needs === 'channel' && (
        <Field label="Channel" className="mt-4" error={wrong?.field('channel')}>
          {(ids) => <input {...ids} className="field" value={channel} onChange={(event) => changed(setChannel)(event.target.value.trim())} />}
        </Field>
      )}
      <Field label="Why" className="mt-3" help="Kept in the history; some policies ask for it." error={wrong?.field('reason')}>
        {(ids) => <textarea {...ids} className="field" rows={2} value={reason} onChange={(event) => changed(setReason)(event.target.value)} />}
      </Field>
      {look1.isError && <Failure what="It can’t be shown what this does" error={look1.error} />}
      {run.isError && <Failure what="Nothing was done" error={run.error} />}
      {plan && (
        <div className="mt-4 rounded border border-line px-3 py-2" role="status">
          <p className="font-medium">
            {plural(plan.accepted, 'device')} of {plan.total}; {plan.pace}
          </p>
          {plan.devices[0]?.refused === undefined && plan.devices[0] && <p className="text-muted">On each: {plan.devices[0].does}.</p>}
          {refused.length > 0 && (
            <>
              <p className="mt-2 text-warn">{plural(plan.refused, 'device')} refused:</p>
              <ul className="max-h-40 overflow-y-auto text-sm">
                {refused.slice(0, FEW).map((d) => (
                  <li key={d.uid}>
                    <span className="font-medium">{d.name}</span> {d.refused?.message}
                  </li>
                ))}
                {plan.refused > FEW && <li className="text-muted">and {plan.refused - FEW} more</li>}
              </ul>
            </>
          )}
        </div>
      )}
    </Dialog>
  )
}
