/** `/documents`: what decides where a device and the cloud changed the same part of a document, by collection. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError } from '~/api/client'
import { collectionsQuery, deleteCollection, saveCollection, STRATEGIES, type CollectionRule, type DocumentCollection, type Strategy } from '~/api/documents'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Command, CopyButton } from '~/ui/copy'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { plural } from '~/ui/number'
import { Empty, Failure, Page } from '~/ui/panel'
import { Rows } from '~/ui/parts'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

import { changeOf, draftOf, freshRule, USUAL_DAYS, type Draft } from './draft'

/** The strategies in words. */
const MEANINGS: Record<Strategy, string> = {
  merge: 'different leaves both stay, the same leaf gets its later value',
  'last-write-wins': 'the later edit, as a whole',
  'cloud-wins': 'the cloud’s, as a whole',
  'edge-wins': 'the device’s, as a whole',
  manual: 'the cloud’s stays until somebody chooses',
  custom: 'a CEL expression decides',
}

export function DocumentRules() {
  const all = useQuery(collectionsQuery)
  const denied = useDenied('fleet.write')
  const [editing, setEditing] = useState<DocumentCollection | 'new' | undefined>()
  const [forgetting, setForgetting] = useState<DocumentCollection | undefined>()
  return (
    <Page
      title="Rules of documents"
      actions={
        <>
          <Button disabledReason={denied} onClick={() => setEditing('new')}>
            New rules…
          </Button>
          <CopyButton small={false} label="Command" text="farshore document rules" />
        </>
      }
    >
      <p className="max-w-3xl text-muted">
        What a device and the cloud both change while the network is away is merged leaf by leaf; of the same leaf the later value stays. Rules of a collection say otherwise for its documents, on all devices.
      </p>
      <Resource
        query={all}
        what="rules of documents"
        empty={
          <Empty title="No collection has rules">
            <p className="text-center">All documents are merged leaf by leaf.</p>
            <Command text="farshore document rules menu --strategy cloud-wins" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Rules of documents"
            items={items}
            id={(c) => c.name}
            columns={[
              { title: 'Collection', cell: (c) => <span className="font-medium">{c.name}</span> },
              { title: 'Both changed the same', plain: true, cell: (c) => <RuleList rules={c.rules} /> },
              { title: 'Devices', cell: (c) => (c.readOnly ? 'may only read' : <span className="text-muted">read and write</span>) },
              { title: 'Conflicts are kept', cell: (c) => <span className={c.conflictDays === undefined ? 'text-muted' : ''}>{plural(c.conflictDays ?? USUAL_DAYS, 'day')}</span> },
              {
                title: 'Changed',
                wide: true,
                cell: (c) => (
                  <span className="text-muted">
                    <Time at={c.changedAt} /> by {c.changedBy}
                  </span>
                ),
              },
              {
                title: 'Actions',
                plain: true,
                right: true,
                cell: (c) => (
                  <span className="inline-flex gap-1">
                    <Button small aria-label={`Change ${c.name}`} disabledReason={denied} onClick={() => setEditing(c)}>
                      Change…
                    </Button>
                    <Button small kind="danger" aria-label={`Delete the rules of ${c.name}`} disabledReason={denied} onClick={() => setForgetting(c)}>
                      Delete…
                    </Button>
                  </span>
                ),
              },
            ]}
          />
        )}
      </Resource>
      {editing && <RulesDialog key={editing === 'new' ? 'new' : editing.name} of={editing === 'new' ? undefined : editing} onClose={() => setEditing(undefined)} />}
      {forgetting && <DeleteDialog of={forgetting} onClose={() => setForgetting(undefined)} />}
    </Page>
  )
}

function RuleList({ rules }: { rules: readonly CollectionRule[] }) {
  const shown = rules.some((rule) => rule.path === '') ? rules : [{ path: '', strategy: 'merge' as const }, ...rules]
  return (
    <ul>
      {shown.map((rule) => (
        <li key={rule.path} className="[overflow-wrap:anywhere]">
          {rule.path === '' ? '' : <code className="font-mono text-sm">{rule.path} </code>}
          {rule.strategy}
          {rule.resolver !== undefined && <code className="block font-mono text-sm text-muted">{rule.resolver}</code>}
        </li>
      ))}
    </ul>
  )
}

function RulesDialog({ of, onClose }: { of: DocumentCollection | undefined; onClose: () => void }) {
  const client = useQueryClient()
  const [name, setName] = useState(of?.name ?? '')
  const [draft, setDraft] = useState<Draft>(() => draftOf(of))
  const set = (part: Partial<Draft>): void => setDraft({ ...draft, ...part })
  const saving = useMutation({
    mutationFn: () => saveCollection(name, of?.resourceVersion ?? 0, changeOf(draft)),
    onSuccess: () => {
      announce('Rules saved')
      void client.invalidateQueries({ queryKey: keys.documentCollections })
      onClose()
    },
  })
  const wrong = (field: string): string | undefined => (saving.error instanceof ApiError ? saving.error.field(field) : undefined)
  const missing = name === '' ? 'Say for which collection.' : undefined
  return (
    <Dialog
      wide
      title={of ? `Rules of ${of.name}` : 'Rules of a collection'}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" busy={saving.isPending} disabledReason={missing} onClick={() => saving.mutate()}>
            Save
          </Button>
        </>
      }
    >
      <div className="grid gap-4 sm:grid-cols-2">
        {!of && (
          <Field label="Collection" help="As apps on the devices call it." error={wrong('name')}>
            {(ids) => <input {...ids} className="field" spellCheck={false} placeholder="menu" value={name} onChange={(e) => setName(e.target.value.trim())} />}
          </Field>
        )}
        <Field label="Conflicts are kept for (days)" help={`After they are decided. Empty: ${USUAL_DAYS}. Open ones wait for 400.`} error={wrong('conflictDays')}>
          {(ids) => <input {...ids} className="field" inputMode="numeric" placeholder={String(USUAL_DAYS)} value={draft.conflictDays} onChange={(e) => set({ conflictDays: e.target.value.trim() })} />}
        </Field>
        <label className="flex items-center gap-2 sm:col-span-2">
          <input type="checkbox" checked={draft.readOnly} onChange={(e) => set({ readOnly: e.target.checked })} />
          Devices may only read these documents
        </label>
        <div className="sm:col-span-2">
          <h3 className="mb-1 font-semibold">Where both changed the same</h3>
          <p className="mb-2 text-sm text-muted">The rule with the longest path holds. Without one for the whole document that is merge.</p>
          <Rows
            what="rule"
            rows={draft.rules}
            add={() => freshRule(draft)}
            onSet={(rules) => set({ rules })}
            error={(index) => wrong(`rules[${index}]`)}
          >
            {(rule, change, index) => (
              <>
                <input
                  aria-label={`Rule ${index + 1}, path`}
                  className="field w-44 min-w-0 font-mono"
                  spellCheck={false}
                  placeholder="the whole document"
                  value={rule.path}
                  onChange={(e) => change({ path: e.target.value.trim() })}
                />
                <select aria-label={`Rule ${index + 1}, strategy`} className="field w-44 min-w-0" value={rule.strategy} onChange={(e) => change({ strategy: e.target.value as Strategy })}>
                  {STRATEGIES.map((strategy) => (
                    <option key={strategy}>{strategy}</option>
                  ))}
                </select>
                <span className="text-sm text-muted">{MEANINGS[rule.strategy]}</span>
                {rule.strategy === 'custom' && (
                  <textarea
                    aria-label={`Rule ${index + 1}, resolver`}
                    aria-invalid={wrong(`rules[${index}]`) === undefined ? undefined : true}
                    rows={2}
                    spellCheck={false}
                    className="field order-last h-auto w-full basis-full font-mono text-sm"
                    placeholder="edge.count > cloud.count ? edge : cloud"
                    value={rule.resolver}
                    onChange={(e) => change({ resolver: e.target.value })}
                  />
                )}
              </>
            )}
          </Rows>
        </div>
        {draft.rules.some((rule) => rule.strategy === 'custom') && (
          <p className="text-sm text-muted sm:col-span-2">
            A resolver is CEL over <code className="font-mono">base</code>, <code className="font-mono">edge</code> and <code className="font-mono">cloud</code> (null where there is none),{' '}
            <code className="font-mono">edgeTime</code>, <code className="font-mono">cloudTime</code> and <code className="font-mono">path</code>. It is compiled before it is saved; one that fails later leaves the conflict open.
          </p>
        )}
        {saving.isError && (
          <div className="sm:col-span-2">
            <Failure what="The rules were not saved" error={saving.error} />
          </div>
        )}
      </div>
    </Dialog>
  )
}

function DeleteDialog({ of, onClose }: { of: DocumentCollection; onClose: () => void }) {
  const client = useQueryClient()
  const deleting = useMutation({
    mutationFn: () => deleteCollection(of.name, of.resourceVersion),
    onSuccess: () => {
      announce('Rules deleted')
      void client.invalidateQueries({ queryKey: keys.documentCollections })
      onClose()
    },
  })
  return (
    <Dialog
      title={`Delete the rules of ${of.name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="danger" busy={deleting.isPending} onClick={() => deleting.mutate()}>
            Delete the rules
          </Button>
        </>
      }
    >
      <p>
        Its documents stay, and are merged leaf by leaf from now on{of.readOnly ? '; devices may change them again' : ''}. What was decided stays decided.
      </p>
      {deleting.isError && (
        <div className="mt-3">
          <Failure what="The rules were not deleted" error={deleting.error} />
        </div>
      )}
    </Dialog>
  )
}
