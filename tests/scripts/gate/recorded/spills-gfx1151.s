; Triton's assembly for gfx1151: a tile of 128 x 128; some of its lines, and its metadata
	s_and_b32 s2, s11, vcc_lo
	.loc	1 50 25
	s_clause 0x1
	scratch_store_b32 off, v6, off offset:800
	scratch_store_b32 off, v2, off offset:804
	.loc	1 50 17 is_stmt 0
	s_and_saveexec_b32 s3, s2
	s_cbranch_execz .LBB0_2

	.loc	1 0 17
	scratch_load_b32 v2, off, off offset:800
	s_waitcnt vmcnt(0)
	v_add_co_u32 v6, s2, v2, v4
	scratch_load_b32 v2, off, off offset:804
	s_waitcnt vmcnt(0)
	v_add_co_ci_u32_e64 v7, null, v2, v5, s2
	.loc	1 50 17
	global_load_b128 v[9:12], v[6:7], off
.LBB0_2:
	.loc	1 0 17
	s_or_b32 exec_lo, exec_lo, s3
	.loc	1 34 20 is_stmt 1
	v_or_b32_e32 v2, 64, v1
.Ltmp28:
	.loc	1 62 19
	v_wmma_i32_16x16x16_iu8 v[57:64], v[181:184], v[185:188], v[57:64] neg_lo:[1,1,0]
.Ltmp29:
	.loc	1 8 11
	v_and_b16 v0.h, 0xf0, v0.h
    .group_segment_fixed_size: 0
    .private_segment_fixed_size: 840
    .sgpr_spill_count: 0
    .vgpr_count:     256
    .vgpr_spill_count: 213
