/** What an app is kept apart from, in words. */
import type { Isolation } from '~/api/types'
import { plural } from '~/ui/number'

/** Empty: it shares everything with the device. */
export function keptApart(isolation: Isolation): string[] {
  const hidden = isolation.maskedPaths?.length ?? 0
  const words = [
    isolation.pid === 'private' && 'own processes',
    isolation.ipc === 'private' && 'own shared memory',
    isolation.uts === 'private' && 'own host name',
    isolation.network === 'none' && 'no network',
    isolation.readOnlyRoot && 'read-only file system',
    isolation.privateTmp && 'own /tmp',
    isolation.seccomp && isolation.seccomp !== 'none' && `seccomp: ${isolation.seccomp}`,
    hidden > 0 && plural(hidden, 'hidden path'),
  ]
  return words.filter((word) => typeof word === 'string')
}
