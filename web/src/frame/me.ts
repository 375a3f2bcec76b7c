/** Who is logged in, and what that allows. */
import { useQuery } from '@tanstack/react-query'

import { meQuery } from '~/api/queries'
import type { Me } from '~/api/types'

export function useMe(): Me | undefined {
  return useQuery(meQuery).data
}

/** Why this role may not do something; undefined: it may. The server decides; this only says it beforehand. */
export function useDenied(permission: string): string | undefined {
  const me = useMe()
  if (!me || me.permissions.includes(permission)) return undefined
  return `Your role, ${me.role}, does not allow this (${permission}). Ask a tenant admin.`
}
