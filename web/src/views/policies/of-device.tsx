/** What a device obeys, and which policy each value comes from. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { devicePolicyQuery, shown, valueAt } from '~/api/policies'
import { Failure, Loading, Section } from '~/ui/panel'

export function DevicePolicyPanel({ device }: { device: string }) {
  const policy = useQuery(devicePolicyQuery(device))
  return (
    <Section title="Policy">
      {policy.isError ? (
        <Failure what="The policy can’t be shown" error={policy.error} retry={() => void policy.refetch()} />
      ) : policy.isPending ? (
        <Loading what="the policy" lines={2} />
      ) : policy.data.effective.policies.length === 0 ? (
        <p className="text-muted">No policy applies: releases and the agent have their own defaults.</p>
      ) : (
        <>
          {!policy.data.understood && (
            <p className="mb-2 text-warn">This device’s agent does not understand all of this, or has not said so yet: for the rest it goes on with its own defaults.</p>
          )}
          <dl className="grid grid-cols-1 gap-x-8 sm:grid-cols-2">
            {Object.entries(policy.data.effective.provenance).map(([path, from]) => (
              <div key={path} className="flex flex-wrap items-baseline justify-between gap-x-3 border-b border-line py-1">
                <dt className="font-mono text-sm">{path}</dt>
                <dd className="min-w-0 [overflow-wrap:anywhere]">
                  <span className="font-medium">{shown(valueAt(policy.data.effective.rules, path))}</span>{' '}
                  <Link to="/policies/$id" params={{ id: from.policy }} className="text-sm text-muted hover:text-accent">
                    {from.policy}, version {from.version}
                  </Link>
                </dd>
              </div>
            ))}
          </dl>
        </>
      )}
    </Section>
  )
}
