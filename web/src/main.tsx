import './styles.css'

import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { RouterProvider } from '@tanstack/react-router'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'

import { ApiError } from '~/api/client'

import { makeRouter } from './router'

/** Changes arrive over the event stream, so answers stay good until something says otherwise. */
const FRESH_MS = 30_000
const TRIES = 2

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: FRESH_MS,
      retry: (tries, error) => {
        const status = error instanceof ApiError ? error.status : 0
        return tries < TRIES && (status === 0 || status === 429 || status >= 500)
      },
      retryDelay: (tries) => Math.min(4000, 500 * 2 ** tries),
    },
  },
})
const router = makeRouter(client)

const root = document.getElementById('root')
if (!root) throw new Error('index.html has no #root')
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </StrictMode>,
)
