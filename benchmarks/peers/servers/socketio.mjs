// Socket.IO with connection state recovery, a room for each user.
import http from 'node:http'
import { Server } from 'socket.io'
import { internalListener, listen, userOf } from './common.mjs'

const server = http.createServer((_, response) => response.writeHead(404).end())
const io = new Server(server, {
  transports: ['websocket'],
  perMessageDeflate: false,
  serveClient: false,
  connectionStateRecovery: { maxDisconnectionDuration: 3600 * 1000, skipMiddlewares: false }
})
io.use(async (socket, next) => {
  try {
    socket.data.user = await userOf(socket.handshake.auth.token)
    next()
  } catch {
    next(new Error('Authentication failed'))
  }
})
io.on('connection', (socket) => socket.join(socket.data.user))

function deliver (user, event) {
  io.to(user).emit('event', event)
  return io.of('/').adapter.rooms.get(user)?.size ?? 0
}

listen(server, internalListener(deliver))
