/** `/alerts/rules`: what is looked at, from which threshold on, and how bad it is. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, del, keyring, seg } from '~/api/client'
import { alertRulesQuery, save, type AlertRule, type AlertRuleSpec, type Severity } from '~/api/incidents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Mark } from '~/ui/mark'
import { count } from '~/ui/number'
import { Empty, Failure, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'

import { AlertPlaces, SEVERITIES, UNKNOWN } from './places'

export function AlertRules() {
  const rules = useQuery(alertRulesQuery)
  const denied = useDenied('incident.write')
  const [editing, setEditing] = useState<AlertRule | 'new' | undefined>()
  return (
    <Page
      title="Alert rules"
      actions={
        <>
          <AlertPlaces at="rules" />
          <Button disabledReason={denied} onClick={() => setEditing('new')}>
            New rule…
          </Button>
          <CopyButton small={false} label="Command" text="farshore get alert-rules" />
        </>
      }
    >
      <Resource query={rules} what="alert rules" empty={<Empty title="No rules">The built-in ones are always there.</Empty>}>
        {(items) => (
          <Table
            label="Alert rules"
            items={items}
            id={(r) => r.metadata.uid}
            columns={[
              {
                title: 'Rule',
                cell: (r) => (
                  <>
                    <span className="font-medium">{r.metadata.name}</span>
                    <span className="block text-sm text-muted">{r.spec.description}</span>
                  </>
                ),
              },
              { title: 'Severity', cell: (r) => <Mark word={r.spec.severity} look={SEVERITIES[r.spec.severity] ?? UNKNOWN} /> },
              { title: 'From', cell: (r) => `${count(r.spec.threshold)} ${r.spec.threshold === 1 ? r.status.unit.replace(/s$/, '') : r.status.unit}` },
              { title: 'Devices', wide: true, cell: (r) => (r.spec.selector === '' ? 'all' : <span className="font-mono text-sm">{r.spec.selector}</span>) },
              { title: 'On', cell: (r) => (r.spec.enabled ? 'yes' : <span className="text-muted">no</span>) },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (r) => (
                  <Button small aria-label={`Change ${r.metadata.name}`} disabledReason={denied} onClick={() => setEditing(r)}>
                    Change…
                  </Button>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {editing && <RuleDialog key={editing === 'new' ? 'new' : editing.metadata.uid} rule={editing === 'new' ? undefined : editing} all={rules.data?.items ?? []} onClose={() => setEditing(undefined)} />}
    </Page>
  )
}

const FRESH: AlertRuleSpec = { type: 'device-offline', enabled: true, severity: 'warning', threshold: 300, selector: '', description: '' }

function RuleDialog({ rule, all, onClose }: { rule: AlertRule | undefined; all: AlertRule[]; onClose: () => void }) {
  const client = useQueryClient()
  const [keyOf] = useState(keyring)
  const [name, setName] = useState(rule?.metadata.name ?? '')
  const [spec, setSpec] = useState(rule?.spec ?? FRESH)
  const [threshold, setThreshold] = useState(String((rule?.spec ?? FRESH).threshold))
  const set = (part: Partial<AlertRuleSpec>): void => setSpec({ ...spec, ...part })
  const types = [...new Set(all.filter((r) => r.status.builtIn).map((r) => r.spec.type))]
  const kind = all.find((r) => r.spec.type === spec.type)?.status
  const changed = (done: string) => () => {
    announce(done)
    void client.invalidateQueries({ queryKey: keys.alertRules })
    void client.invalidateQueries({ queryKey: keys.alerts })
    onClose()
  }
  const saving = useMutation({
    mutationFn: () => {
      // What is no number goes to the server as it was typed, which says what is wrong with it.
      const figure = Number(threshold)
      const body = { ...spec, threshold: (threshold.trim() === '' || Number.isNaN(figure) ? threshold : figure) as number }
      return save<AlertRule>('/alert-rules', rule, name, body, keyOf([name, body]))
    },
    onSuccess: changed('Rule saved'),
  })
  const deleting = useMutation({ mutationFn: (uid: string) => del(`/alert-rules/${seg(uid)}`), onSuccess: changed('Rule deleted') })
  const error = (field: string): string | undefined => (saving.error instanceof ApiError ? saving.error.field(field) : undefined)
  return (
    <Dialog
      title={rule ? `Rule ${rule.metadata.name}` : 'New rule'}
      onClose={onClose}
      footer={
        <>
          {rule && (
            <Button kind="danger" busy={deleting.isPending} disabledReason={rule.status.builtIn ? 'It is built in: take it off instead.' : undefined} onClick={() => deleting.mutate(rule.metadata.uid)}>
              Delete
            </Button>
          )}
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={saving.isPending} onClick={() => saving.mutate()}>
            Save
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-3">
        {!rule && (
          <>
            <Field label="Name" error={error('name')}>
              {(ids) => <input {...ids} className="field" spellCheck={false} value={name} onChange={(e) => setName(e.target.value.trim())} />}
            </Field>
            <Field label="Looks at" error={error('type')}>
              {(ids) => (
                <select
                  {...ids}
                  className="field"
                  value={spec.type}
                  onChange={(e) => {
                    const like = all.find((r) => r.status.builtIn && r.spec.type === e.target.value)
                    set({ type: e.target.value, severity: like?.spec.severity ?? spec.severity })
                    setThreshold(String(like?.spec.threshold ?? threshold))
                  }}
                >
                  {types.map((type) => (
                    <option key={type}>{type}</option>
                  ))}
                </select>
              )}
            </Field>
          </>
        )}
        <Field label="Severity" error={error('severity')}>
          {(ids) => (
            <select {...ids} className="field" value={spec.severity} onChange={(e) => set({ severity: e.target.value as Severity })}>
              <option>info</option>
              <option>warning</option>
              <option>critical</option>
            </select>
          )}
        </Field>
        <Field label={`Threshold${kind ? ` (${kind.unit})` : ''}`} help={kind && `${count(kind.least)} to ${count(kind.most)}`} error={error('threshold')}>
          {(ids) => <input {...ids} className="field" inputMode="decimal" value={threshold} onChange={(e) => setThreshold(e.target.value.trim())} />}
        </Field>
        <Field label="Devices" help="Those whose labels match: store=12. Empty: all." error={error('selector')}>
          {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={spec.selector} onChange={(e) => set({ selector: e.target.value })} />}
        </Field>
        <Field label="Description" error={error('description')}>
          {(ids) => <input {...ids} className="field" value={spec.description} onChange={(e) => set({ description: e.target.value })} />}
        </Field>
        <label className="flex items-center gap-2">
          <input type="checkbox" checked={spec.enabled} onChange={(e) => set({ enabled: e.target.checked })} />
          On
        </label>
        {saving.isError && <Failure what="It was not saved" error={saving.error} />}
        {deleting.isError && <Failure what="It was not deleted" error={deleting.error} />}
      </div>
    </Dialog>
  )
}
