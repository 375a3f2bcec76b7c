/** What can be done with the selected devices. Says how many, and which of them it does not fit. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, del, keyring, post, seg } from '~/api/client'
import { keys } from '~/api/queries'
import type { Device } from '~/api/types'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button, buttonClass } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Menu } from '~/ui/menu'
import { plural } from '~/ui/number'

import { AskDialog } from '../operations/ask'
import { VERBS, type VerbLook } from '../operations/look'
import type { Selection } from './table'

export interface DeviceAction {
  name: 'approve' | 'reject' | 'cordon' | 'uncordon' | 'decommission'
  title: string
  says: string
  permission: string
  danger?: boolean
  /** Why it does not fit this device; undefined: it does. */
  cannot: (device: Device) => string | undefined
}

const only = (lifecycle: string, why: string) => (device: Device) =>
  device.status.lifecycle === lifecycle ? undefined : why

export const DEVICE_ACTIONS: readonly DeviceAction[] = [
  {
    name: 'approve',
    title: 'Approve',
    says: 'They get their certificates and what their channel has.',
    permission: 'claim.write',
    cannot: only('pending', 'Only pending devices can be approved.'),
  },
  {
    name: 'reject',
    title: 'Reject',
    says: 'They are told no, and their keys are refused from now on.',
    permission: 'claim.write',
    danger: true,
    cannot: only('pending', 'Only pending devices can be rejected.'),
  },
  {
    name: 'cordon',
    title: 'Cordon',
    says: 'They keep what they have and get nothing new until they are uncordoned.',
    permission: 'device.write',
    cannot: only('claimed', 'Only claimed devices can be cordoned.'),
  },
  {
    name: 'uncordon',
    title: 'Uncordon',
    says: 'They get new releases again, and drained ones start their apps.',
    permission: 'device.write',
    cannot: (device) =>
      ['cordoned', 'draining', 'drained'].includes(device.status.lifecycle) ? undefined : 'Only cordoned and drained devices can be uncordoned.',
  },
  {
    name: 'decommission',
    title: 'Decommission',
    says: 'Their certificates are revoked, their connections closed, and they leave the fleet. This can’t be undone; they must be claimed again.',
    permission: 'device.revoke',
    danger: true,
    cannot: (device) => (device.status.lifecycle === 'decommissioned' ? 'It has left the fleet already.' : undefined),
  },
]

export function perform(action: DeviceAction, device: Device, comment: string, key: string): Promise<unknown> {
  const path = `/devices/${seg(device.metadata.uid)}`
  return action.name === 'decommission' ? del(path) : post(`${path}:${action.name}`, { comment }, key)
}

const AT_ONCE = 6

export function BulkBar({ selection, total, selectAll }: { selection: Selection; total: number; selectAll: () => Promise<void> }) {
  const [asked, setAsked] = useState<DeviceAction | undefined>()
  const [verb, setVerb] = useState<VerbLook | undefined>()
  const items = useVerbItems(setVerb)
  const [gathering, setGathering] = useState(false)
  const devices = [...selection.devices.values()]
  if (devices.length === 0) return null
  return (
    <div className="panel flex flex-wrap items-center gap-2 px-3 py-1.5" role="region" aria-label="Selection">
      <span className="font-medium">{plural(devices.length, 'device')} selected</span>
      {devices.length < total && (
        <Button
          small
          kind="ghost"
          busy={gathering}
          onClick={() => {
            setGathering(true)
            void selectAll().finally(() => setGathering(false))
          }}
        >
          Select all {plural(total, 'device')} that match
        </Button>
      )}
      <span className="flex-1" />
      {DEVICE_ACTIONS.map((action) => (
        <ActionButton key={action.name} action={action} devices={devices} onAsk={() => setAsked(action)} />
      ))}
      <Menu label="Operate on the selected devices" button="Operate…" items={items} />
      <CopyButton text={() => devices.map((d) => `device/${d.metadata.name}`).join(' ')} label="Copy names" />
      <Button small kind="ghost" onClick={() => selection.set(new Map())}>
        Clear
      </Button>
      {verb && <AskDialog look={verb} devices={devices} onClose={() => setVerb(undefined)} onDone={() => selection.set(new Map())} />}
      {asked && (
        <ActionDialog
          action={asked}
          devices={devices}
          onClose={() => setAsked(undefined)}
          onDone={() => selection.set(new Map())}
        />
      )}
    </div>
  )
}

/** Asks devices that a selector names, without selecting them one by one. */
export function OperateMenu({ selector }: { selector: string }) {
  const [verb, setVerb] = useState<VerbLook | undefined>()
  const items = useVerbItems(setVerb, undefined, true)
  return (
    <>
      <Menu label="Operate on devices by selector" button="Operate…" items={items} className={buttonClass('plain')} />
      {verb && <AskDialog look={verb} selector={selector} onClose={() => setVerb(undefined)} />}
    </>
  )
}

/** What can be asked of devices, as a menu. */
export function useVerbItems(pick: (look: VerbLook) => void, device?: Device, bySelector = false) {
  const denied = { 'device.operate': useDenied('device.operate'), 'device.write': useDenied('device.write') }
  return VERBS.filter((look) => bySelector || look.bySelector !== true).map((look) => ({
    label: `${look.title}…`,
    onPick: () => pick(look),
    disabledReason: denied[look.permission] ?? (device ? look.cannot?.(device) : undefined),
  }))
}

function ActionButton({ action, devices, onAsk }: { action: DeviceAction; devices: Device[]; onAsk: () => void }) {
  const denied = useDenied(action.permission)
  const fits = devices.some((d) => action.cannot(d) === undefined)
  const first = devices[0]
  return (
    <Button
      small
      kind={action.danger ? 'danger' : 'plain'}
      disabledReason={denied ?? (fits || !first ? undefined : action.cannot(first))}
      onClick={onAsk}
    >
      {action.title}
    </Button>
  )
}

export function ActionDialog({
  action,
  devices,
  onClose,
  onDone,
}: {
  action: DeviceAction
  devices: Device[]
  onClose: () => void
  onDone?: () => void
}) {
  const client = useQueryClient()
  const [comment, setComment] = useState('')
  const [keyFor] = useState(keyring)
  const fit = devices.filter((d) => action.cannot(d) === undefined)
  const run = useMutation({
    mutationFn: async () => {
      const failed: string[] = []
      const queue = [...fit]
      const work = async (): Promise<void> => {
        for (let device = queue.shift(); device; device = queue.shift()) {
          try {
            await perform(action, device, comment, keyFor([device.metadata.uid, comment]))
          } catch (error) {
            failed.push(`${device.metadata.name}: ${error instanceof ApiError ? error.problem.detail : String(error)}`)
          }
        }
      }
      await Promise.all(Array.from({ length: AT_ONCE }, work))
      void client.invalidateQueries({ queryKey: keys.devicePages })
      void client.invalidateQueries({ queryKey: keys.summary })
      void client.invalidateQueries({ queryKey: keys.device })
      return failed
    },
    onSuccess: (failed) => {
      announce(`${action.title}: ${plural(fit.length - failed.length, 'device')} done, ${failed.length} failed`)
      if (failed.length > 0) return
      onDone?.()
      onClose()
    },
  })
  const what = fit.length === 1 && fit[0] ? fit[0].metadata.name : plural(fit.length, 'device')
  return (
    <Dialog
      title={`${action.title} ${what}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind={action.danger ? 'danger' : 'primary'} busy={run.isPending} onClick={() => run.mutate()}>
            {run.isPending ? 'Working…' : `${action.title} ${what}`}
          </Button>
        </>
      }
    >
      <p>{action.says}</p>
      {fit.length < devices.length && (
        <p className="mt-2 text-muted">
          {plural(devices.length - fit.length, 'selected device')} left out: it does not fit their state.
        </p>
      )}
      <label className="mt-4 block">
        <span className="mb-1 block text-sm text-muted">Why (kept in the history)</span>
        <textarea className="field" rows={2} value={comment} onChange={(event) => setComment(event.target.value)} />
      </label>
      {run.data && run.data.length > 0 && (
        <ul role="alert" className="mt-3 max-h-40 overflow-y-auto rounded border border-bad bg-bad-soft px-3 py-2 text-sm">
          {run.data.map((line) => (
            <li key={line}>{line}</li>
          ))}
        </ul>
      )}
    </Dialog>
  )
}
