defmodule MixConsumer do
  @moduledoc "A mix project with the dependency."

  require Record

  Record.defrecord(
    :retry_config,
    Record.extract(:retry_config, from_lib: "erl_esdb_gater/include/esdb_gater.hrl")
  )

  @doc "Uses the header, the library and a gateway."
  def main do
    5000 = retry_config(:esdb_gater_retry.default_config(), :max_delay_ms)
    :ok = :esdb_gater_api.register_worker(:mix_store, self())
    {:ok, [{_, _}]} = :esdb_gater_api.get_workers(:mix_store)
    IO.puts("NIF: #{:esdb_gater_nif.status() |> inspect()}")
    IO.puts("passed")
  end
end
