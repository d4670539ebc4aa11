# The Quick Start, from Elixir. Run with the ebin folders of a project that has the dependency.
:nonode@nohost = node()
{:ok, _} = Application.ensure_all_started(:erl_esdb_gater)

worker = spawn_link(fn ->
  receive do
    {:"$gen_call", from, {:append, stream, events}} ->
      :gen_server.reply(from, {:ok, {stream, length(events)}})
  end
end)

:ok = :esdb_gater_api.register_worker(:my_store, worker)

{:ok, {"user-1", 2}} =
  :esdb_gater_api.execute(:my_store, fn w -> GenServer.call(w, {:append, "user-1", [1, 2]}) end)

topic = "events.user.created"
:ok = :esdb_channel_server.subscribe(:esdb_channel_events, topic, self())
:ok = :esdb_channel_server.publish(:esdb_channel_events, topic, %{user: "Zoë"})

receive do
  {:channel_message, :esdb_channel_events, ^topic, %{user: "Zoë"}} -> :ok
after
  20_000 -> raise "no message"
end

signed = :esdb_pubsub_security.sign(%{type: :alert, level: :critical})
:ok = :esdb_channel_server.publish(:esdb_channel_alerts, "alerts.critical", signed)
{:error, :signature_required} =
  :esdb_channel_server.publish(:esdb_channel_alerts, "alerts.critical", %{})

config = :esdb_gater_retry.new_config(1, 10, 3)
:ok = :esdb_gater_api.register_worker(:busy_store, self())
{:error, {:retries_exhausted, :busy}} =
  :esdb_gater_api.execute(:busy_store, fn _ -> {:error, :busy} end, config)

:ok = Application.stop(:erl_esdb_gater)
IO.puts("passed")
