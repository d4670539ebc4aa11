-module(esdb_gater_config_tests).

-include_lib("eunit/include/eunit.hrl").

the_configuration_of_the_reference_is_good_test() ->
    {ok, Config, []} = esdb_gater_config:check([
        {cluster, [{ra_cluster_name, esdb_gater_registry}]},
        {retry, [{base_delay_ms, 100}, {max_delay_ms, 5000}, {max_attempts, 5}]},
        {channels, [{esdb_channel_events, [{priority, high}]},
                    {esdb_channel_metrics, [{max_rate, 10000}]}]},
        {security, [{hmac_secret, <<"your_secret_here">>}, {message_ttl_seconds, 300}]},
        {telemetry_handlers, [logger]}]),
    ?assertMatch(#{retry := #{max_attempts := 5}, telemetry_handlers := [logger]}, Config).

no_configuration_is_good_test() ->
    ?assertEqual({ok, #{}, []}, esdb_gater_config:check([])).

an_unknown_key_is_a_warning_with_the_nearest_name_test() ->
    ?assertEqual({ok, #{}, [{unknown_key, "gatewys", "gateways"}]},
                 esdb_gater_config:check([{gatewys, []}])),
    ?assertEqual({ok, #{retry => #{}}, [{unknown_key, "retry.max_attempt", "retry.max_attempts"}]},
                 esdb_gater_config:check([{retry, [{max_attempt, 5}]}])),
    ?assertMatch({ok, _, [{unknown_key, "channels.c.priorty", "channels.c.priority"}]},
                 esdb_gater_config:check([{channels, [{c, [{priorty, high}]}]}])).

a_bad_value_is_an_error_with_its_key_test_() ->
    [{Key, fun() ->
               {error, {bad_config, Found, _, _} = Problem} = esdb_gater_config:check(Env),
               ?assertEqual(Key, Found),
               ?assertNotEqual(nomatch, string:find(esdb_gater_config:describe(Problem), Key))
           end}
     || {Key, Env} <- [
         {"retry.base_delay_ms", [{retry, [{base_delay_ms, -1}]}]},
         {"retry.max_delay_ms", [{retry, [{base_delay_ms, 10}, {max_delay_ms, 9}]}]},
         {"retry.max_attempts", [{retry, [{max_attempts, 0}]}]},
         {"retry", [{retry, 5}]},
         {"channels.esdb_channel_events.priority",
          [{channels, [{esdb_channel_events, [{priority, urgent}]}]}]},
         {"channels.c.max_rate", [{channels, [{c, [{max_rate, 0}]}]}]},
         {"channels.c.hmac", [{channels, #{c => #{hmac => true}}}]},
         {"security.message_ttl_seconds", [{security, [{message_ttl_seconds, "300"}]}]},
         {"security.hmac_secret", [{security, [{hmac_secret, <<>>}]}]},
         {"gateways", [{gateways, [gater]}]},
         {"gateway_timeout_ms", [{gateway_timeout_ms, 99}]},
         {"program", [{program, ""}]},
         {"telemetry_handlers", [{telemetry_handlers, [statsd]}]}]].

a_secret_is_not_in_the_error_test() ->
    {error, Problem} = esdb_gater_config:check([{security, [{hmac_secret, {my, secret}}]}]),
    ?assertEqual(nomatch, string:find(esdb_gater_config:describe(Problem), "my")).

channels_are_the_ten_changed_and_the_own_test() ->
    {ok, Config, []} = esdb_gater_config:check(
        [{channels, [{esdb_channel_events, [{hmac, required}]}, {mine, [{max_rate, 5}]}]}]),
    Channels = esdb_gater_config:channels(Config),
    ?assertEqual(11, map_size(Channels)),
    ?assertMatch(#{esdb_channel_events := #{priority := high, hmac := required},
                   esdb_channel_health := #{replay_last := true, max_rate := 100},
                   mine := #{priority := normal, max_rate := 5, hmac := optional,
                             replay_last := false}}, Channels).

the_file_for_the_program_has_the_same_keys_and_no_secret_test() ->
    {ok, Config, []} = esdb_gater_config:check(
        [{retry, [{base_delay_ms, 7}]}, {tune_peers, false}, {security, [{hmac_secret, "s"}, {message_ttl_seconds, 9}]},
         {channels, [{'we"ird', [{max_rate, infinity}, {replay_last, true}]}]}]),
    ?assertEqual(<<"tune_peers = false\n[retry]\nbase_delay_ms = 7\n[security]\nmessage_ttl_seconds = 9\n"
                   "[channels.\"we\\\"ird\"]\nmax_rate = \"infinity\"\nreplay_last = true\n">>,
                 iolist_to_binary(esdb_gater_config:to_toml(Config))).
