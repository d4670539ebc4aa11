defmodule MixConsumer.MixProject do
  use Mix.Project

  # The URL and the commit are filled in by tests/consumers/run.
  def project do
    [app: :mix_consumer, version: "1.0.0", deps: [{:erl_esdb_gater, git: "@URL@", ref: "@REF@"}]]
  end

  def application, do: [extra_applications: [:logger], mod: {MixConsumer, []}]
end
