/** A short list's four states, so that each view says only what is its own. */
import type { UseQueryResult } from '@tanstack/react-query'
import type { ReactNode } from 'react'

import type { List } from '~/api/types'

import { Failure, Loading, StaleNote } from './panel'
import { Time } from './time'

interface Props<T> {
  query: UseQueryResult<List<T>>
  /** `tokens`, for "The tokens can’t be listed". */
  what: string
  empty: ReactNode
  children: (items: T[]) => ReactNode
}

export function Resource<T>({ query, what, empty, children }: Props<T>) {
  const items = query.data?.items
  if (items === undefined) {
    return query.isError ? (
      <Failure what={`The ${what} can’t be listed`} error={query.error} retry={() => void query.refetch()} />
    ) : (
      <div className="panel p-4">
        <Loading what={what} lines={6} />
      </div>
    )
  }
  return (
    <>
      {query.isError && <StaleNote error={query.error} since={<Time at={query.dataUpdatedAt} />} />}
      {items.length === 0 ? <div className="panel">{empty}</div> : children(items)}
    </>
  )
}
