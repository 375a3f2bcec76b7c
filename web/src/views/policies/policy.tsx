/** `/policies/$id`: one policy, what it said before, and where it applies. `new` makes one. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useNavigate, useParams } from '@tanstack/react-router'
import { useState } from 'react'

import { keyring } from '~/api/client'
import { createPolicy, essence, policyQuery, policyVersionsQuery, replacePolicy, type Policy, type PolicySpec } from '~/api/policies'
import { keys } from '~/api/queries'
import { useDenied } from '~/frame/me'
import { Button } from '~/ui/button'
import { CopyButton } from '~/ui/copy'
import { Field } from '~/ui/form'
import { plural } from '~/ui/number'
import { Failure, Loading, Page, Section } from '~/ui/panel'
import { Time } from '~/ui/time'
import { toYaml } from '~/ui/yaml'

import { Selector } from './policies'

const above = (
  <nav aria-label="Breadcrumb" className="text-sm text-muted">
    <Link to="/policies" className="hover:text-ink">
      Policies
    </Link>
  </nav>
)

const EXAMPLE: PolicySpec = {
  description: '',
  selector: '',
  priority: 0,
  rules: {
    restart: { maxRestarts: 5, windowSeconds: 600 },
    rollback: { afterRestarts: 3, to: 'previous' },
  },
}

export function PolicyView() {
  const { id } = useParams({ from: '/shell/policies/$id' })
  return id === 'new' ? <NewPolicy /> : <OnePolicy key={id} id={id} />
}

/** Reads the text of an editor; the reason when it is no specification. */
function parse(text: string): PolicySpec | string {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'A policy is an object: { "rules": { … } }'
    return value as PolicySpec
  } catch (error) {
    return error instanceof Error ? error.message : 'This is no JSON.'
  }
}

const text = (spec: PolicySpec): string => JSON.stringify(essence(spec), null, 2)

function Editor({ value, onChange, wrong }: { value: string; onChange: (text: string) => void; wrong: string | undefined }) {
  return (
    <Field
      label="Specification"
      help={
        <>
          As JSON. A value that is left out, another policy says, or nobody. As YAML in a file: <code className="font-mono">farshore apply -f</code>
        </>
      }
      error={wrong}
    >
      {(ids) => (
        <textarea {...ids} className="field h-96 w-full font-mono" spellCheck={false} value={value} onChange={(e) => onChange(e.target.value)} />
      )}
    </Field>
  )
}

function NewPolicy() {
  const navigate = useNavigate()
  const client = useQueryClient()
  const denied = useDenied('policy.write')
  const [name, setName] = useState('')
  const [draft, setDraft] = useState(text(EXAMPLE))
  const [keyFor] = useState(keyring)
  const spec = parse(draft)
  const wrong = typeof spec === 'string' ? spec : undefined
  const make = useMutation({
    mutationFn: async () => {
      if (typeof spec === 'string') throw new Error(spec)
      return createPolicy(name, spec, keyFor([name, spec]))
    },
    onSuccess: async (made) => {
      await client.invalidateQueries({ queryKey: keys.policies })
      await navigate({ to: '/policies/$id', params: { id: made.metadata.name } })
    },
  })
  return (
    <Page title="New policy" above={above}>
      <Section title="What it says">
        <div className="flex flex-col gap-4">
          <Field label="Name" help="Small letters, digits, dots and hyphens.">
            {(ids) => <input {...ids} className="field w-full sm:w-80" value={name} onChange={(e) => setName(e.target.value)} />}
          </Field>
          <Editor value={draft} onChange={setDraft} wrong={wrong} />
          {make.isError && <Failure what="The policy was not made" error={make.error} />}
          <div>
            <Button
              kind="primary"
              busy={make.isPending}
              disabledReason={denied ?? (name === '' ? 'Give it a name first.' : wrong)}
              onClick={() => make.mutate()}
            >
              Make it
            </Button>
          </div>
        </div>
      </Section>
    </Page>
  )
}

function OnePolicy({ id }: { id: string }) {
  const policy = useQuery(policyQuery(id))
  const shown = policy.data
  if (shown === undefined) {
    return (
      <Page title={id} above={above}>
        {policy.isError ? (
          <Failure what="The policy can’t be shown" error={policy.error} retry={() => void policy.refetch()} />
        ) : (
          <Section title="What it says">
            <Loading what="the policy" lines={8} />
          </Section>
        )}
      </Page>
    )
  }
  return (
    <Page
      title={shown.metadata.name}
      above={above}
      actions={
        <>
          <CopyButton small={false} label="Command" text={`farshore describe policy/${shown.metadata.name}`} />
          <CopyButton small={false} label="YAML" text={() => toYaml({ ...shown, spec: essence(shown.spec) })} />
        </>
      }
    >
      <Section title="Where it applies">
        <p>
          <Selector text={shown.spec.selector ?? ''} />, {plural(shown.status.devices, 'device')} now, with priority {shown.spec.priority ?? 0}. For each
          value the policy with the highest priority wins, then the one with the more specific selector, then the name that sorts last.
        </p>
      </Section>
      <Change key={shown.metadata.resourceVersion} policy={shown} />
      <Versions policy={shown} />
    </Page>
  )
}

function Change({ policy }: { policy: Policy }) {
  const client = useQueryClient()
  const denied = useDenied('policy.write')
  const before = text(policy.spec)
  const [draft, setDraft] = useState(before)
  const spec = parse(draft)
  const wrong = typeof spec === 'string' ? spec : undefined
  const save = useMutation({
    mutationFn: async () => {
      if (typeof spec === 'string') throw new Error(spec)
      return replacePolicy(policy, spec)
    },
    onSuccess: () => client.invalidateQueries({ queryKey: keys.policies }),
  })
  return (
    <Section title="What it says">
      <div className="flex flex-col gap-4">
        <Editor value={draft} onChange={setDraft} wrong={wrong} />
        {save.isError && <Failure what="The policy was not changed" error={save.error} />}
        <div className="flex gap-2">
          <Button
            kind="primary"
            busy={save.isPending}
            disabledReason={denied ?? wrong ?? (draft === before ? 'Nothing was changed.' : undefined)}
            onClick={() => save.mutate()}
          >
            Save as version {policy.metadata.resourceVersion + 1}
          </Button>
          {draft !== before && <Button onClick={() => setDraft(before)}>Undo</Button>}
        </div>
      </div>
    </Section>
  )
}

function Versions({ policy }: { policy: Policy }) {
  const versions = useQuery(policyVersionsQuery(policy.metadata.uid))
  return (
    <Section title="Versions">
      {versions.isError ? (
        <Failure what="The versions can’t be listed" error={versions.error} retry={() => void versions.refetch()} />
      ) : versions.isPending ? (
        <Loading what="versions" />
      ) : (
        <ul>
          {versions.data.items.map((version) => (
            <li key={version.version} className="border-b border-line py-1 last:border-b-0">
              <details>
                <summary>
                  Version {version.version}, <Time at={version.at} />, by {version.actor}
                </summary>
                <pre className="overflow-x-auto py-2 font-mono text-sm">{toYaml(essence(version.spec))}</pre>
              </details>
            </li>
          ))}
        </ul>
      )}
    </Section>
  )
}
