/** One policy being written: as a form or as YAML, with what it would change before it is saved. */
import { useMutation } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useState, type ReactNode } from 'react'

import { ApiError } from '~/api/client'
import { essence, previewPolicy, type Policy, type PolicyPreview, type PolicySpec } from '~/api/policies'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { cx } from '~/ui/cx'
import { Field } from '~/ui/form'
import { count, plural } from '~/ui/number'
import { Failure, Section } from '~/ui/panel'
import { toYaml } from '~/ui/yaml'

import { differences, draftOf, freshDraft, specOf, type Difference, type Draft } from './draft'
import { PolicyForm } from './form'

interface Props {
  name: string
  /** What it says now; undefined for a new one. */
  before: PolicySpec | undefined
  /** Stands first, with what is wrong with the name. */
  head?: (error: string | undefined) => ReactNode
  verb: string
  failed: string
  save: (spec: PolicySpec) => Promise<Policy>
  onSaved: (made: Policy) => Promise<void>
}

type View = 'form' | 'yaml'

export function Editor({ name, before, head, verb, failed, save, onSaved }: Props) {
  const denied = useDenied('policy.write')
  const [start] = useState(() => (before === undefined ? freshDraft() : draftOf(before)))
  const [draft, setDraft] = useState<Draft>(start)
  const [view, setView] = useState<View>('form')
  const spec = specOf(draft)
  const text = JSON.stringify(spec)
  const set = (part: Partial<Draft>): void => setDraft((d) => ({ ...d, ...part }))
  const saving = useMutation({ mutationFn: () => save(spec), onSuccess: onSaved })
  const asking = useMutation({ mutationFn: () => previewPolicy(name || 'new-policy', spec), onSuccess: () => saving.reset() })
  const failure = [saving.error, asking.error].find((error) => error !== null)
  const wrong = failure instanceof ApiError ? (failure.problem.errors ?? []).map((e) => ({ ...e, field: e.field.replace(/^spec\./, '') })) : []
  const error = (field: string): string | undefined => wrong.find((e) => e.field === field)?.message
  const wrongIn = (...prefixes: string[]): boolean => wrong.some((e) => prefixes.some((prefix) => e.field.startsWith(prefix)))
  const changed = before === undefined ? undefined : differences(essence(specOf(start)), essence(spec))
  const off = denied ?? (name === '' ? 'Give it a name first.' : changed?.length === 0 ? 'Nothing was changed.' : undefined)
  const yaml = (): string => toYaml({ apiVersion: 'farshore.dev/v1', kind: 'Policy', metadata: { name: name || 'NAME' }, spec: essence(spec) })
  // A preview says something about the very text it was asked for, and nothing about another.
  const [askedFor, setAskedFor] = useState('')
  const tab = (value: View, title: string) => (
    <button
      type="button"
      role="tab"
      aria-selected={view === value}
      className={cx('rounded px-2 py-0.5 font-medium', view === value ? 'bg-hover text-ink' : 'text-muted hover:text-ink')}
      onClick={() => setView(value)}
    >
      {title}
    </button>
  )
  return (
    <>
      <Section
        flush
        title="What it says"
        actions={
          <div role="tablist" aria-label="How it is shown" className="flex gap-1">
            {tab('form', 'Form')}
            {tab('yaml', 'YAML')}
          </div>
        }
      >
        {view === 'yaml' ? (
          <div className="p-4">
            <pre aria-label="The policy as YAML" className="overflow-x-auto font-mono text-sm">
              {yaml()}
            </pre>
            <div className="mt-3 flex flex-wrap items-center gap-2">
              <CopyButton small={false} label="Copy the YAML" text={yaml} />
              <span className="text-sm text-muted">
                To write it as text: <code className="font-mono">farshore diff -f</code>, then <code className="font-mono">farshore apply -f</code>.
              </span>
            </div>
          </div>
        ) : (
          <>
            <div className="grid gap-4 p-4 sm:grid-cols-2 lg:grid-cols-3">
              {head?.(error('metadata.name') ?? error('name'))}
              <Field label="Selector" help="Labels, such as role=kiosk. Empty: every device." error={error('selector')}>
                {(ids) => <input {...ids} className="field font-mono" spellCheck={false} value={draft.selector} onChange={(e) => set({ selector: e.target.value })} />}
              </Field>
              <Field label="Priority" help="-1000 to 1000; the higher one wins." error={error('priority')}>
                {(ids) => <input {...ids} className="field" inputMode="numeric" value={draft.priority} onChange={(e) => set({ priority: e.target.value.trim() })} />}
              </Field>
              <Field label="Description" error={error('description')} className="sm:col-span-2 lg:col-span-3">
                {(ids) => <input {...ids} className="field" value={draft.description} onChange={(e) => set({ description: e.target.value })} />}
              </Field>
            </div>
            <PolicyForm draft={draft} set={set} error={error} wrongIn={wrongIn} />
          </>
        )}
      </Section>
      <Section title="Before it is saved">
        <div className="flex flex-col gap-4">
          {changed !== undefined && changed.length > 0 && <Differences label="What you changed" of={changed} />}
          {failure instanceof Error && <Failure what={saving.isError ? failed : 'What it would change can’t be said'} error={failure} />}
          {asking.isSuccess && askedFor === text && <Preview of={asking.data} />}
          <div className="flex flex-wrap items-center gap-2">
            <Button
              busy={asking.isPending}
              disabledReason={before !== undefined && changed?.length === 0 ? 'Nothing was changed.' : undefined}
              onClick={() => {
                setAskedFor(text)
                asking.mutate()
              }}
            >
              Show what it changes
            </Button>
            <Button kind="primary" busy={saving.isPending} disabledReason={off} onClick={() => saving.mutate()}>
              {verb}
            </Button>
            {changed !== undefined && changed.length > 0 && (
              <Button
                onClick={() => {
                  setDraft(start)
                  saving.reset()
                  asking.reset()
                }}
              >
                Undo
              </Button>
            )}
          </div>
        </div>
      </Section>
    </>
  )
}

/** Values by their path: what was, what is. */
export function Differences({ label, of }: { label: string; of: readonly Difference[] }) {
  if (of.length === 0) return <p className="text-muted">Nothing is different.</p>
  const said = (value: string | undefined) => value ?? <span className="text-muted">not said</span>
  return (
    <ul aria-label={label}>
      {of.map((d) => (
        <li key={d.path} className="flex flex-wrap items-baseline gap-x-3 border-b border-line py-1 last:border-b-0">
          <span className="font-mono text-sm [overflow-wrap:anywhere]">{d.path}</span>
          <span className="min-w-0 [overflow-wrap:anywhere]">
            <del className="no-underline">{said(d.from)}</del> <span aria-label="becomes">→</span> <ins className="font-medium no-underline">{said(d.to)}</ins>
          </span>
        </li>
      ))}
    </ul>
  )
}

function Preview({ of }: { of: PolicyPreview }) {
  return (
    <div role="status" aria-label="What it would change">
      <p className="mb-2">
        It applies to {plural(of.matching, 'device')}; <span className="font-medium">{plural(of.changed, 'device')}</span> would obey something else than now.
      </p>
      {of.changes.length > 0 && (
        <ul aria-label="Changes" className="mb-2">
          {of.changes.map((c) => (
            <li key={`${c.path} ${c.from ?? ''} ${c.to ?? ''} ${c.policy ?? ''}`} className="flex flex-wrap items-baseline gap-x-3 border-b border-line py-1 last:border-b-0">
              <span className="font-mono text-sm">{c.path}</span>
              <span className="min-w-0 [overflow-wrap:anywhere]">
                {c.from ?? <span className="text-muted">not said</span>} → <span className="font-medium">{c.to ?? <span className="text-muted">not said</span>}</span>
              </span>
              <span className="text-sm text-muted">
                on {count(c.devices)} {c.policy !== undefined && <>by {c.policy}</>}
              </span>
            </li>
          ))}
        </ul>
      )}
      {of.devices.length > 0 && (
        <details>
          <summary>Which devices</summary>
          <ul className="flex flex-wrap gap-x-4 gap-y-1 py-2">
            {of.devices.map((device) => (
              <li key={device}>
                <Link to="/devices/$id" params={{ id: device }} className="hover:text-accent">
                  {device}
                </Link>
              </li>
            ))}
            {of.changed > of.devices.length && <li className="text-muted">and {count(of.changed - of.devices.length)} more</li>}
          </ul>
        </details>
      )}
    </div>
  )
}
