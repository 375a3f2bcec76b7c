/** `/policies/$id`: one policy, what it said before, and where it applies. `new` makes one. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Link, useNavigate, useParams } from '@tanstack/react-router'
import { useState } from 'react'

import { keyring } from '~/api/client'
import { createPolicy, essence, policyQuery, policyVersionsQuery, replacePolicy, type Policy, type PolicySpec } from '~/api/policies'
import { keys } from '~/api/queries'
import { CopyButton } from '~/ui/copy'
import { Field } from '~/ui/form'
import { plural } from '~/ui/number'
import { Failure, Loading, Page, Section } from '~/ui/panel'
import { Time } from '~/ui/time'
import { toYaml } from '~/ui/yaml'

import { differences } from './draft'
import { Differences, Editor } from './editor'
import { Selector } from './policies'

const above = (
  <nav aria-label="Breadcrumb" className="text-sm text-muted">
    <Link to="/policies" className="hover:text-ink">
      Policies
    </Link>
  </nav>
)

export function PolicyView() {
  const { id } = useParams({ from: '/shell/policies/$id' })
  return id === 'new' ? <NewPolicy /> : <OnePolicy key={id} id={id} />
}

function NewPolicy() {
  const navigate = useNavigate()
  const client = useQueryClient()
  const [name, setName] = useState('')
  const [keyFor] = useState(keyring)
  return (
    <Page title="New policy" above={above}>
      <Editor
        name={name}
        before={undefined}
        head={(error) => (
          <Field label="Name" help="Small letters, digits, dots and hyphens." error={error}>
            {(ids) => <input {...ids} className="field" value={name} onChange={(e) => setName(e.target.value.trim())} />}
          </Field>
        )}
        verb="Make it"
        failed="The policy was not made"
        save={(spec) => createPolicy(name, spec, keyFor([name, spec]))}
        onSaved={async (made) => {
          await client.invalidateQueries({ queryKey: keys.policies })
          await navigate({ to: '/policies/$id', params: { id: made.metadata.name } })
        }}
      />
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
  return (
    <Editor
      name={policy.metadata.name}
      before={policy.spec}
      verb={`Save as version ${policy.metadata.resourceVersion + 1}`}
      failed="The policy was not changed"
      save={(spec) => replacePolicy(policy, spec)}
      onSaved={() => client.invalidateQueries({ queryKey: keys.policies })}
    />
  )
}

function Versions({ policy }: { policy: Policy }) {
  const versions = useQuery(policyVersionsQuery(policy.metadata.uid))
  const [pair, setPair] = useState<{ from?: number; to?: number }>({})
  const items = versions.data?.items ?? []
  const to = pair.to ?? items[0]?.version
  const from = pair.from ?? items[1]?.version
  const at = (version: number | undefined): PolicySpec | undefined => items.find((v) => v.version === version)?.spec
  const [old, now] = [at(from), at(to)]
  const pick = (label: string, value: number | undefined, onPick: (version: number) => void) => (
    <select aria-label={label} className="field w-auto!" value={value} onChange={(e) => onPick(Number(e.target.value))}>
      {items.map((v) => (
        <option key={v.version} value={v.version}>
          version {v.version}
        </option>
      ))}
    </select>
  )
  return (
    <Section title="Versions">
      {versions.isError ? (
        <Failure what="The versions can’t be listed" error={versions.error} retry={() => void versions.refetch()} />
      ) : versions.isPending ? (
        <Loading what="versions" />
      ) : (
        <>
          {items.length > 1 && (
            <div className="mb-3 border-b border-line pb-3">
              <div className="mb-2 flex flex-wrap items-center gap-2">
                <span>From</span>
                {pick('From version', from, (version) => setPair({ ...pair, from: version }))}
                <span>to</span>
                {pick('To version', to, (version) => setPair({ ...pair, to: version }))}
              </div>
              {old !== undefined && now !== undefined && <Differences label="What is different" of={differences(essence(old), essence(now))} />}
            </div>
          )}
          <ul>
            {items.map((version) => (
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
        </>
      )}
    </Section>
  )
}
