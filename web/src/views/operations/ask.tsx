/** Asks devices for something: first what it would do to which of them, then exactly that. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, keyring } from '~/api/client'
import { operate, preview, type Operate } from '~/api/operations'
import { devicePolicyQuery } from '~/api/policies'
import { keys } from '~/api/queries'
import type { Device } from '~/api/types'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { plural } from '~/ui/number'
import { Failure } from '~/ui/panel'
import { split } from '~/ui/words'

import type { VerbLook } from './look'

const FEW = 6
const MANY = 20

/** So many devices may be named in one request. */
const MAX_NAMED = 1000

interface Props {
  look: VerbLook
  /** Those that are meant; none: whoever matches a selector that is written here. */
  devices?: Device[]
  /** What the selector begins with. */
  selector?: string
  onClose: () => void
  onDone?: () => void
}

const namesOf = (runbooks: unknown): string[] => (Array.isArray(runbooks) ? (runbooks as { name?: unknown }[]).map((r) => r.name).filter((name) => typeof name === 'string') : [])

export function AskDialog({ look, devices, selector: begin = '', onClose, onDone }: Props) {
  const client = useQueryClient()
  const apps = [...new Set((devices ?? []).flatMap((d) => d.status.apps.map((a) => a.app)))].toSorted()
  const [selector, setSelector] = useState(begin)
  const [command, setCommand] = useState('')
  const [app, setApp] = useState(apps[0] ?? '')
  const [inside, setInside] = useState('')
  const [service, setService] = useState('')
  const [runbook, setRunbook] = useState('')
  const [given, setGiven] = useState('')
  const [channel, setChannel] = useState('')
  const [reason, setReason] = useState('')
  const [keyFor] = useState(keyring)
  const only = devices?.length === 1 ? devices[0] : undefined
  const what = devices === undefined ? 'by selector' : (only?.metadata.name ?? plural(devices.length, 'device'))
  const policy = useQuery({ ...devicePolicyQuery(only?.metadata.uid ?? ''), enabled: only !== undefined && look.needs === 'runbook' })
  const runbooks = namesOf(policy.data?.effective.rules.operations?.runbooks)
  const free = look.needs === 'runbook' && runbook === '' && command.trim() !== ''

  const body: Operate = {
    verb: look.verb,
    ...(devices === undefined ? { selector } : { devices: devices.map((d) => d.metadata.uid) }),
    ask: {
      reason,
      ...(look.needs === 'app' ? { app } : {}),
      ...(free && inside !== '' ? { app: inside } : {}),
      ...(look.needs === 'runbook'
        ? { arguments: free ? { command, ...(inside !== '' && service !== '' ? { service } : {}) } : { runbook, arguments: split(given) } }
        : {}),
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
    (devices === undefined && selector.trim() === '' && 'Say of which devices.') ||
    ((devices?.length ?? 0) > MAX_NAMED && `At most ${MAX_NAMED} devices can be named; clear the selection and use a selector.`) ||
    (look.needs === 'app' && app === '' && 'Choose an app.') ||
    (look.needs === 'runbook' && runbook === '' && !free && 'Name a runbook, or write a command.') ||
    (look.needs === 'channel' && channel.trim() === '' && 'Name a channel.') ||
    undefined
  const wrong = look1.error instanceof ApiError ? look1.error : undefined
  const refused = plan?.devices.filter((d) => d.refused !== undefined) ?? []
  const willDo = plan?.devices.filter((d) => d.refused === undefined) ?? []
  const first = willDo[0]
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
              disabledReason={plan.accepted > 0 ? undefined : plan.total === 0 ? 'No device matches.' : 'Every device is refused.'}
              onClick={() => run.mutate(plan.preview)}
            >
              {look.title} on {plural(plan.accepted, 'device')}
            </Button>
          )}
        </>
      }
    >
      <p>{look.says}</p>
      {devices === undefined && (
        <Field label="Devices" className="mt-4" help="Those whose labels match: store=12, role in (till,kiosk), !lab" error={wrong?.field('selector')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={selector} onChange={(event) => changed(setSelector)(event.target.value)} />}
        </Field>
      )}
      {look.needs === 'app' && devices === undefined && (
        <Field label="App" className="mt-3" error={wrong?.field('app')}>
          {(ids) => <input {...ids} className="field" spellCheck={false} value={app} onChange={(event) => changed(setApp)(event.target.value.trim())} />}
        </Field>
      )}
      {look.needs === 'app' && devices !== undefined && (
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
          <Field label="Runbook" className="mt-4" help={only && policy.isSuccess && runbooks.length === 0 ? 'The policy of this device has none.' : 'A name from the policy of these devices.'} error={wrong?.field('runbook')}>
            {(ids) => <input {...ids} className="field" list="runbooks" value={runbook} onChange={(event) => changed(setRunbook)(event.target.value.trim())} />}
          </Field>
          <datalist id="runbooks">
            {runbooks.map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
          <Field label="Arguments" className="mt-3" help="As far as the runbook takes any; quotes keep spaces together." error={wrong?.field('arguments')}>
            {(ids) => <input {...ids} className="field font-mono" value={given} onChange={(event) => changed(setGiven)(event.target.value)} />}
          </Field>
        </>
      )}
      {look.needs === 'runbook' && runbook === '' && (
        <Field label="Or any command" className="mt-3" help="A line for /bin/sh, where the policy of these devices allows that." error={wrong?.field('command')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={command} onChange={(event) => changed(setCommand)(event.target.value)} />}
        </Field>
      )}
      {free && (
        <div className="mt-3 grid gap-3 sm:grid-cols-2">
          <Field label="Inside app" help="In its container; else beside the apps." error={wrong?.field('app')}>
            {(ids) => <input {...ids} className="field" list="inside" spellCheck={false} value={inside} onChange={(event) => changed(setInside)(event.target.value.trim())} />}
          </Field>
          <datalist id="inside">
            {apps.map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
          {inside !== '' && (
            <Field label="Service" help="Where the app has several." error={wrong?.field('service')}>
              {(ids) => <input {...ids} className="field" spellCheck={false} value={service} onChange={(event) => changed(setService)(event.target.value.trim())} />}
            </Field>
          )}
        </div>
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
            {plan.total === 0 ? 'No device matches.' : `${plural(plan.accepted, 'device')} of ${plan.total}; ${plan.pace}`}
          </p>
          {first && <p className="text-muted">On each: {first.does}.</p>}
          {devices === undefined && willDo.length > 0 && (
            <p className="mt-1 text-sm [overflow-wrap:anywhere]">
              {willDo.slice(0, MANY).map((d) => d.name).join(', ')}
              {plan.accepted > MANY && <span className="text-muted"> and {plan.accepted - Math.min(MANY, willDo.length)} more</span>}
            </p>
          )}
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
