/** Asks before something that was given out is taken back for good. */
import { useMutation, useQueryClient, type QueryKey } from '@tanstack/react-query'
import type { ReactNode } from 'react'

import { del } from '~/api/client'

import { announce } from './announce'
import { Button } from './button'
import { Dialog } from './dialog'
import { Failure } from './panel'

interface Props {
  name: string
  /** `token`: what the button calls it. */
  noun: string
  /** Said to whoever can't see it go. */
  done: string
  path: string
  /** What is read anew. */
  queryKey: QueryKey
  onClose: () => void
  /** What follows from it. */
  children: ReactNode
}

export function Revoke({ name, noun, done, path, queryKey, onClose, children }: Props) {
  const client = useQueryClient()
  const run = useMutation({
    mutationFn: () => del(path),
    onSuccess: () => {
      announce(done)
      void client.invalidateQueries({ queryKey })
      onClose()
    },
  })
  return (
    <Dialog
      title={`Revoke ${name}`}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="danger" busy={run.isPending} onClick={() => run.mutate()}>
            Revoke the {noun}
          </Button>
        </>
      }
    >
      <p>{children}</p>
      {run.isError && (
        <div className="mt-3">
          <Failure what="That did not work" error={run.error} />
        </div>
      )}
    </Dialog>
  )
}
