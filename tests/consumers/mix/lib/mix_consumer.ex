defmodule MixConsumer do
  @moduledoc "A mix project with the dependency."

  use Application
  require Record

  Record.defrecord(
    :retry_config,
    Record.extract(:retry_config, from_lib: "erl_esdb_gater/include/esdb_gater.hrl")
  )

  @doc "Started in a release, which is told by a variable, it does its work and ends the system."
  @impl true
  def start(_type, _args) do
    if System.get_env("MIX_CONSUMER_RELEASE") do
      Task.start(fn ->
        try do
          main()
          System.halt(0)
        rescue
          error ->
            IO.puts(Exception.message(error))
            System.halt(1)
        end
      end)
    end

    Supervisor.start_link([], strategy: :one_for_one)
  end

  @doc "Uses the header, the library and a gateway."
  def main do
    5000 = retry_config(:esdb_gater_retry.default_config(), :max_delay_ms)
    :ok = :esdb_gater_api.register_worker(:mix_store, self())
    {:ok, [{_, _}]} = :esdb_gater_api.get_workers(:mix_store)
    IO.puts("NIF: #{:esdb_gater_nif.status() |> inspect()}")
    IO.puts("passed")
  end
end
